"""Where live captions go: lines of text, lines to be spoken, JSONL, and the summary at the end."""

from __future__ import annotations

import shutil
import statistics
from collections import deque
from typing import TYPE_CHECKING, Any, TextIO

from kiloword.runtime.outputs import caption_fields, json_line

if TYPE_CHECKING:
    from kiloword.runtime.live import LiveCaption

_AGES_KEPT = 10_000
_ERASE_LINE = "\r\x1b[K"


def live_fields(live: LiveCaption) -> dict[str, Any]:
    """A live caption as JSON-ready fields."""
    return {
        "time": live.time.isoformat(timespec="milliseconds"),
        "frame": live.frame_index,
        "video_s": round(live.at_s, 3),
        "age_ms": round(live.age_ms, 1),
        **caption_fields(live.caption),
        "shown": live.shown,
        "changed": live.changed,
    }


def live_text(live: LiveCaption) -> str:
    """A live caption as a line for people."""
    facts = f"confidence {live.caption.confidence:.2f}, frame {live.frame_index}, {live.age_ms:.0f} ms old"
    return f"{live.shown}  ({facts})\n"


def as_sentence(text: str) -> str:
    """A caption as a voice reads it best: with a capital and a full stop, on one line.

    >>> as_sentence("a dog runs  on grass")
    'A dog runs on grass.'
    """
    words = " ".join(text.split())
    if not words:
        return ""
    ended = words if words[-1] in ".!?。！？" else words + "."
    return ended[0].upper() + ended[1:]


class LiveWriter:
    """Writes live captions to a stream, each flushed at once.

    Args:
        stream: Where they go.
        format_name: `jsonl` writes every caption; `text` only those that change what is shown,
            for thirty equal lines a second are no help to a reader.
        only_changes: Write only what changes, in either format, and text as bare sentences.
    """

    def __init__(self, stream: TextIO, format_name: str, *, only_changes: bool = False) -> None:
        self._stream = stream
        self._as_json = format_name == "jsonl"
        self._only_changes = only_changes
        self._shows_growth = not (self._as_json or only_changes) and stream.isatty()

    def grow(self, words: str) -> None:
        """Show words of a caption that is being written; on a terminal only, where they can be replaced."""
        if self._shows_growth:
            self._stream.write(_ERASE_LINE + words[: shutil.get_terminal_size().columns - 1])
            self._stream.flush()

    def write(self, live: LiveCaption) -> None:
        """Write one caption, unless it would only repeat what is shown."""
        if not live.changed and (self._only_changes or not self._as_json):
            self._erase()
            return
        if self._as_json:
            line = json_line(live_fields(live))
        else:
            line = as_sentence(live.shown) + "\n" if self._only_changes else live_text(live)
        self._erase()
        self._stream.write(line)
        self._stream.flush()

    def _erase(self) -> None:
        if self._shows_growth:
            self._stream.write(_ERASE_LINE)


class LiveSummary:
    """Counts of a run, for the line at its end. Ages are kept for the last 10,000 captions only."""

    def __init__(self) -> None:
        self.captions = 0
        self._ages_ms: deque[float] = deque(maxlen=_AGES_KEPT)

    def add(self, live: LiveCaption) -> None:
        """Count a caption."""
        self.captions += 1
        self._ages_ms.append(live.age_ms)

    def line(self, frames_read: int) -> str:
        """The summary in words."""
        frames = f"{frames_read} frame{'' if frames_read == 1 else 's'}"
        captions = f"{self.captions} caption{'' if self.captions == 1 else 's'}"
        if not self._ages_ms:
            return f"{captions} of {frames}"
        median = statistics.median(self._ages_ms)
        ages = f"median {median:.0f} ms, longest {max(self._ages_ms):.0f} ms"
        return f"{captions} of {frames}; age from capture to caption: {ages}"
