"""`kiloword webcam --record`: a video with its captions burnt in, or the captions as subtitles."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kiloword.runtime.camera import import_cv2
from kiloword.runtime.errors import CameraError, ConfigError
from kiloword.runtime.outputs import write_atomically
from kiloword.runtime.overlay import burn_in
from kiloword.runtime.subtitles import SubtitleWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kiloword.runtime.camera import FrameSource
    from kiloword.runtime.live import LiveCaption
    from kiloword.runtime.newest import NewestFrame

SUBTITLE_SUFFIXES = (".srt", ".vtt")
RECORD_SUFFIXES = (".mp4", *SUBTITLE_SUFFIXES)
_MOST_FRAMES_PER_SECOND = 30.0
_MOST_BEHIND = (
    30  # frames; a machine that cannot keep up leaves gaps of a second rather than falling back for ever
)

_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Keeps what a session sees and says."""

    def add(self, live: LiveCaption) -> None:
        """Take the next caption."""

    def end(self, end_s: float) -> None:
        """The source ended here, in seconds of its own time."""


def check_record_path(path: str) -> str:
    """Check the name of a recording before anything is loaded; returns its suffix.

    Raises:
        ConfigError: It is none of `RECORD_SUFFIXES`, or its folder is not there.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in RECORD_SUFFIXES:
        expected = ", ".join(RECORD_SUFFIXES)
        raise ConfigError([f"the name must end in one of {expected}, not {suffix or 'nothing'}"], path=path)
    if not target.absolute().parent.is_dir():
        raise ConfigError(["there is no such folder to record into"], path=path)
    return suffix


class SubtitleRecorder:
    """Writes the words that are shown as subtitles; a `Recorder`."""

    def __init__(self, writer: SubtitleWriter) -> None:
        self._writer = writer

    def add(self, live: LiveCaption) -> None:
        """Take the next caption."""
        if live.changed:
            self._writer.begin(live.shown, live.shown_since_s)

    def end(self, end_s: float) -> None:
        """Write the last cue."""
        self._writer.end(end_s)


class VideoFile:
    """A video that is being written: mp4 with MPEG-4 part 2, which every OpenCV can write.

    The file appears under its name when it is complete.

    Args:
        path: Its name.
        frames_per_second: Its rate.
    """

    def __init__(self, path: str, frames_per_second: float) -> None:
        target = Path(os.path.realpath(path))
        self._cv2 = import_cv2()
        self._target = target
        self._temporary = target.with_name(f".{target.stem[:40]}.{os.getpid()}.part{target.suffix}")
        self._frames_per_second = frames_per_second
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, bgr: NDArray[np.uint8], text: str) -> None:
        """Add a frame, uint8 (height, width, 3), with its caption; all get the size of the first.

        Raises:
            CameraError: This OpenCV writes no such video, or the folder cannot be written.
        """
        if self._writer is None:
            self._open((bgr.shape[1] // 2 * 2, bgr.shape[0] // 2 * 2))  # the format knows even sizes only
        if (bgr.shape[1], bgr.shape[0]) != self._size:
            bgr = self._cv2.resize(bgr, self._size, interpolation=self._cv2.INTER_AREA)
        self._writer.write(burn_in(bgr, text))

    def close(self) -> None:
        """Complete the file; without a frame there is none."""
        if self._writer is not None:
            self._writer.release()
            self._temporary.replace(self._target)

    def _open(self, size: tuple[int, int]) -> None:
        code = self._cv2.VideoWriter_fourcc(*"mp4v")
        self._size = size
        writer = self._cv2.VideoWriter(str(self._temporary), code, self._frames_per_second, size)
        if not writer.isOpened():
            raise CameraError(
                "this video cannot be written",
                path=self._target,
                hint="--record captions.vtt, or another folder",
            )
        self._writer = writer


class VideoRecorder:
    """Records the newest frame with the words on show, steadily, in a thread of its own; a `Recorder`.

    Writing a video takes time, and captions never wait for it.
    """

    def __init__(self, file: VideoFile, newest: NewestFrame, frames_per_second: float) -> None:
        self._file = file
        self._newest = newest
        self._interval_s = 1.0 / frames_per_second
        self._text = ""
        self._stop = Event()
        self._error: Exception | None = None
        self._thread = Thread(target=self._run, name="kiloword-record", daemon=True)
        self._thread.start()

    def add(self, live: LiveCaption) -> None:
        """Take the next caption.

        Raises:
            CameraError: The video cannot be written.
        """
        self._text = live.shown
        if self._error is not None:
            raise self._error

    def end(self, end_s: float) -> None:  # noqa: ARG002  it ends when it is told to
        """Write no further frame."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._record()
        except Exception as error:  # noqa: BLE001  raised again by `add` and `end`
            self._error = error

    def _record(self) -> None:
        due: float | None = None
        while not self._stop.is_set():
            frame = self._newest.latest()
            if frame is None:
                self._stop.wait(self._interval_s)
                continue
            self._file.write(frame.bgr, self._text)
            now = time.monotonic()
            due = (due or now) + self._interval_s
            if now - due > _MOST_BEHIND * self._interval_s:
                due = now
            self._stop.wait(max(0.0, due - now))


@contextmanager
def recording(path: str | None, newest: NewestFrame) -> Iterator[Recorder | None]:
    """Record a session that runs now.

    Args:
        path: The file, with one of `RECORD_SUFFIXES`; None for no recording.
        newest: What is seen.

    Raises:
        CameraError: The video cannot be written.
        OSError: The subtitles cannot be written.
    """
    if path is None:
        yield None
    elif Path(path).suffix.lower() in SUBTITLE_SUFFIXES:
        with subtitles(path) as recorder:
            try:
                yield recorder
            finally:
                recorder.end(end_of(newest))
    else:
        rate = min(_MOST_FRAMES_PER_SECOND, newest.source.frames_per_second)
        file = VideoFile(path, rate)
        video = VideoRecorder(file, newest, rate)
        try:
            yield video
        finally:
            video.end(end_of(newest))
            file.close()


@contextmanager
def own_time_recording(
    path: str | None, source: FrameSource
) -> Iterator[tuple[Recorder | None, Callable[[NDArray[np.uint8], str], None] | None]]:
    """Record a video that is captioned at its own time.

    Args:
        path: The file, with one of `RECORD_SUFFIXES`; None for no recording.
        source: What is read.

    Yields:
        What takes the captions, for subtitles; what takes each frame with its words, for a video.
    """
    if path is None:
        yield None, None
    elif Path(path).suffix.lower() in SUBTITLE_SUFFIXES:
        with subtitles(path) as recorder:
            yield recorder, None
    else:
        file = VideoFile(path, source.frames_per_second)
        try:
            yield None, file.write
        finally:
            file.close()


@contextmanager
def subtitles(path: str) -> Iterator[SubtitleRecorder]:
    """Subtitles that appear under their name when they are complete."""
    with write_atomically(path) as stream:
        yield SubtitleRecorder(SubtitleWriter(stream, Path(path).suffix.lower()[1:]))


def end_of(newest: NewestFrame) -> float:
    """When the source ended, in its own time: one frame after the last."""
    frame = newest.latest()
    return 0.0 if frame is None else frame.at_s + 1.0 / newest.source.frames_per_second
