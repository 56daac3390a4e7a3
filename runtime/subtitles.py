"""Captions as subtitles, SubRip (`.srt`) or WebVTT (`.vtt`), written cue by cue as they come.

Source: https://www.w3.org/TR/webvtt1/ (cue timings, escapes); SubRip has no standard and is written as all
    players read it: numbered cues, comma before the milliseconds, an empty line behind each.
"""

from __future__ import annotations

import textwrap
from typing import TextIO

_LINE_CHARACTERS = 42  # what broadcasters put on one line
_LEAST_CUE_S = 0.001


def time_stamp(seconds: float, fraction_mark: str) -> str:
    """Hours, minutes, seconds and milliseconds.

    >>> time_stamp(3723.5, ",")
    '01:02:03,500'
    """
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{fraction_mark}{rest % 1000:03}"


class SubtitleWriter:
    """Writes cues; each ends where the next begins.

    Args:
        stream: Where to; UTF-8.
        format_name: `srt` or `vtt`.
    """

    def __init__(self, stream: TextIO, format_name: str) -> None:
        self._stream = stream
        self._is_vtt = format_name == "vtt"
        self._number = 0
        self._text = ""
        self._start_s = 0.0
        if self._is_vtt:
            self._write("WEBVTT\n\n")

    def begin(self, text: str, start_s: float) -> None:
        """From this time on the words are these; what was shown until then is written.

        Args:
            text: The words; empty for nothing.
            start_s: Seconds from the first frame.
        """
        start_s = max(start_s, self._start_s)
        self.end(start_s)
        self._text, self._start_s = text, start_s

    def end(self, end_s: float) -> None:
        """The video ends here, or nothing is shown from here on."""
        if self._text and end_s - self._start_s >= _LEAST_CUE_S:
            self._number += 1
            self._write(f"{self._number}\n{self._times(end_s)}\n{self._lines()}\n\n")
        self._text = ""

    def _times(self, end_s: float) -> str:
        mark = "." if self._is_vtt else ","
        return f"{time_stamp(self._start_s, mark)} --> {time_stamp(end_s, mark)}"

    def _lines(self) -> str:
        """The words on lines that fit a screen; an empty line among them would end the cue."""
        text = " ".join(self._text.split())
        if self._is_vtt:
            text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        else:
            text = text.replace("-->", "->")
        lines = textwrap.wrap(text, _LINE_CHARACTERS, break_long_words=False, break_on_hyphens=False)
        return "\n".join(lines)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
