"""Captions of what a camera sees now: always the newest frame, and how old it is when the words are there."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from kiloword.runtime.camera import Frame, NewestFrame
from kiloword.runtime.outputs import caption_fields, json_line

if TYPE_CHECKING:
    from kiloword.runtime.captioner import Caption, Captioner

_AGES_KEPT = 10_000


@dataclass(frozen=True)
class LiveCaption:
    """A caption of one frame."""

    caption: Caption
    """What was said of it."""
    frame_index: int
    """The frame's place in the video, from 0."""
    captured_at: float
    """When the frame was captured, in seconds of `time.monotonic`."""
    age_ms: float
    """How old the frame was when its caption was ready: capture to caption."""
    time: datetime
    """When the caption was ready, with its time zone."""


class LiveView(Protocol):
    """What shows frames and captions; `window.CaptionWindow` is one."""

    def show(self, frame: Frame, live: LiveCaption | None) -> bool:
        """Show a frame with the latest caption; False when the user wants to end."""


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


def live_captions(
    captioner: Captioner, newest: NewestFrame, *, num_beams: int | None = None, max_frames: int | None = None
) -> Iterator[LiveCaption]:
    """Caption the newest frame again and again until the video ends.

    Args:
        captioner: What captions them.
        newest: Gives the frames.
        num_beams: Beams; None for the bundle's own default.
        max_frames: End after this many captioned frames; None for no limit.

    Raises:
        CameraError: The source gave no frame at all, or the camera stopped giving them.
    """
    index, count = -1, 0
    while max_frames is None or count < max_frames:
        frame = newest.wait_newer(index)
        if frame is None:
            return
        caption = captioner.caption(frame.rgb, num_beams=num_beams)
        now = datetime.now(timezone.utc)
        yield LiveCaption(caption, frame.index, frame.captured_at, frame.age_ms(), now)
        index, count = frame.index, count + 1


def run_live(
    captions: Iterator[LiveCaption],
    newest: NewestFrame,
    on_caption: Callable[[LiveCaption], None],
    view: LiveView | None = None,
) -> None:
    """Hand on captions until the video ends or the user closes the view.

    Args:
        captions: What `live_captions` yields.
        newest: Gives the frames to show.
        on_caption: Called with each new caption; in a thread where there is a view.
        view: Shows frames and captions; None for no window.
    """
    if view is not None:
        _run_in_view(captions, newest, view, on_caption)
        return
    for live in captions:
        on_caption(live)


def _run_in_view(
    captions: Iterator[LiveCaption],
    newest: NewestFrame,
    view: LiveView,
    on_caption: Callable[[LiveCaption], None],
) -> None:
    """Show the video as it comes while captions are made in a thread of their own.

    The view runs in the caller's thread, for windows work in the main thread only. A captioner that takes its
    time thus never makes the picture stutter.

    Args:
        captions: What `live_captions` yields; read in the thread.
        newest: Gives the frames to show.
        view: Shows them.
        on_caption: Called in the thread with each new caption.
    """
    worker = _CaptionWorker(captions, on_caption)
    worker.start()
    try:
        while not worker.done:
            frame = newest.latest()
            if frame is None:
                time.sleep(0.005)
            elif not view.show(frame, worker.latest):
                break
    finally:
        worker.stop()
    worker.check()


class _CaptionWorker:
    """Runs the captions in a thread; keeps the latest and the error, if there was one."""

    def __init__(self, captions: Iterator[LiveCaption], on_caption: Callable[[LiveCaption], None]) -> None:
        self._captions = captions
        self._on_caption = on_caption
        self._stop = Event()
        self._error: Exception | None = None
        self._thread = Thread(target=self._run, name="kiloword-caption", daemon=True)
        self.latest: LiveCaption | None = None
        self.done = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=2.0)  # it may be waiting for a camera that gives no more frames

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for live in self._captions:
                if self._stop.is_set():
                    return
                self.latest = live
                self._on_caption(live)
        except Exception as error:  # noqa: BLE001  raised again by `check`
            self._error = error
        finally:
            self.done = True


def live_fields(live: LiveCaption) -> dict[str, Any]:
    """A live caption as JSON-ready fields."""
    return {
        "time": live.time.isoformat(timespec="milliseconds"),
        "frame": live.frame_index,
        "age_ms": round(live.age_ms, 1),
        **caption_fields(live.caption),
    }


def live_text(live: LiveCaption) -> str:
    """A live caption as a line for people."""
    facts = f"confidence {live.caption.confidence:.2f}, frame {live.frame_index}, {live.age_ms:.0f} ms old"
    return f"{live.caption.spoken}  ({facts})\n"


class LiveWriter:
    """Writes live captions to a stream, each flushed at once.

    Args:
        stream: Where they go.
        format_name: `jsonl` writes every caption; `text` only those that differ from the last,
            for thirty equal lines a second are no help to a reader.
    """

    def __init__(self, stream: TextIO, format_name: str) -> None:
        self._stream = stream
        self._as_json = format_name == "jsonl"
        self._last_text: str | None = None

    def write(self, live: LiveCaption) -> None:
        """Write one caption, unless it would only repeat the last."""
        if self._as_json:
            self._stream.write(json_line(live_fields(live)))
        elif live.caption.text != self._last_text:
            self._stream.write(live_text(live))
        self._last_text = live.caption.text
        self._stream.flush()
