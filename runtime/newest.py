"""The newest frame of a camera, a video or a stream, and no other.

OpenCV queues what a camera delivers, so a program that is slower than the camera sees further and further
into the past (opencv/opencv#13145). Here a thread reads without pause and throws away all but the newest
frame, which carries the moment it was captured.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING

import numpy as np

from kiloword.runtime.camera import FrameSource, describe_cameras
from kiloword.runtime.errors import CameraError
from kiloword.runtime.scene import Small, is_cut, shrink

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EXAMPLE = "kiloword webcam --source video.mp4 --headless"
_POLL_S = 0.25  # on Windows Ctrl-C does not interrupt a wait without an end
_HOPELESS_S = 0.1  # a recorded video that is later than this plays more slowly instead of catching up
_RATE_WINDOW = 30
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 10.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    bgr: NDArray[np.uint8]
    """uint8 (height, width, 3), blue first, as OpenCV reads and shows it."""
    small: Small
    """What `scene.shrink` makes of it."""
    index: int
    """Its place among all frames that were read, from 0; captioned ones have gaps between them."""
    captured_at: float
    """When it was captured, in seconds of `time.monotonic`; of a recorded video, when it was due."""
    at_s: float
    """Its place in the source's own time, in seconds from the first frame."""
    scene: int
    """How many cuts there were before it."""

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """uint8 (height, width, 3), red first, as the captioner takes it."""
        return np.ascontiguousarray(self.bgr[:, :, ::-1])

    def age_ms(self) -> float:
        """How long ago it was captured."""
        return (time.monotonic() - self.captured_at) * 1000.0


def back_off_delays() -> Iterator[float]:
    """Seconds to wait before each attempt to open a camera again: 0.5, 1, 2, 4, 8, then 10 for ever."""
    delay = _FIRST_DELAY_S
    while True:
        yield delay
        delay = min(2 * delay, _LONGEST_DELAY_S)


class NewestFrame:
    """Reads a source in a thread of its own and keeps the newest frame only.

    A recorded video plays at its own rate, as a camera would: a captioner that is slower sees fewer of its
    frames, never later ones. A live source that falls silent is opened again until that succeeds. Use it in a
    `with` statement: it starts reading there and closes the source at the end.

    Args:
        source: What to read.
        wait: Waits so many seconds, unless reading is stopped meanwhile; tests replace it. None for a real
            wait.
    """

    def __init__(self, source: FrameSource, *, wait: Callable[[float], object] | None = None) -> None:
        self._source = source
        self._newest: Frame | None = None
        self._frames_read = 0
        self._scene = 0
        self._error: Exception | None = None
        self._ended = False
        self._repeats = False
        self._trouble = ""
        self._times: deque[float] = deque(maxlen=_RATE_WINDOW)
        self._started_at = 0.0
        self._changed = Condition()
        self._stop = Event()
        self._paused = Event()
        self._wait = wait or self._stop.wait
        self._thread = Thread(target=self._read_all, name="kiloword-camera", daemon=True)

    def __enter__(self) -> NewestFrame:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        # A camera can hang in its driver for ever; the daemon thread is then left behind rather than waited
        # for.
        self._thread.join(timeout=2.0)
        if not self._thread.is_alive():
            self._source.close()

    @property
    def source(self) -> FrameSource:
        """What is read."""
        return self._source

    @property
    def frames_read(self) -> int:
        """How many frames came so far, dropped ones included."""
        return self._frames_read

    @property
    def frames_per_second(self) -> float:
        """The rate at which frames came of late; 0 while none come."""
        times = list(self._times)
        if len(times) < 2 or self._trouble or self._paused.is_set():
            return 0.0
        return (len(times) - 1) / max(1e-6, times[-1] - times[0])

    @property
    def trouble(self) -> str:
        """Why no frames come, in words for people; empty while they do."""
        return self._trouble

    @property
    def ended(self) -> bool:
        """Whether no further frame will come."""
        return self._ended

    @property
    def paused(self) -> bool:
        """Whether the picture stands still because somebody asked for it."""
        return self._paused.is_set()

    def pause(self, paused: bool) -> None:
        """Hold the picture, or go on: a recorded video where it was, a live one with what it shows now."""
        (self._paused.set if paused else self._paused.clear)()

    def latest(self) -> Frame | None:
        """The newest frame at once; None before the first."""
        return self._newest

    def repeat(self) -> None:
        """Hand out the newest frame once more: what is wanted of it has changed, and it may be the last."""
        with self._changed:
            self._repeats = True
            self._changed.notify_all()

    def wait_newer(self, index: int) -> Frame | None:
        """Wait for a frame that is newer than the one with this index.

        Args:
            index: That of the last frame that was used; -1 for none yet.

        Returns:
            The newest frame there is then, or the same again after `repeat`; None when the video has ended.

        Raises:
            CameraError: The source gave no frame at all.
        """
        self._wait_until(lambda: self._ended or self._is_newer(index), None)
        if self._is_newer(index):
            self._repeats = False
            return self._newest
        if self._error is not None:
            raise self._error
        return None

    def wait_cut(self, scene: int, timeout_s: float) -> None:
        """Wait until the scene is another than this one, the video has ended, or the time is over."""
        self._wait_until(lambda: self._ended or self._scene != scene, timeout_s)

    def _is_newer(self, index: int) -> bool:
        return self._newest is not None and (self._repeats or self._newest.index > index)

    def _wait_until(self, done: Callable[[], bool], timeout_s: float | None) -> None:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not done() and not self._stop.is_set():
                left = _POLL_S if until is None else min(_POLL_S, until - time.monotonic())
                if left <= 0:
                    return
                self._changed.wait(left)

    def _read_all(self) -> None:
        try:
            self._play()
            while not (self._source.recorded or self._stop.is_set()):
                self._open_again()
                self._play()
        except Exception as error:  # noqa: BLE001  raised again by `wait_newer`
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _play(self) -> None:
        """Read the source until it ends or falls silent."""
        if self._source.recorded:
            self._play_recorded()
        else:
            self._play_live()
        if self._frames_read == 0 and not self._stop.is_set():
            raise CameraError(
                "gives no frames", path=self._source.name, found=describe_cameras(), hint=_EXAMPLE
            )

    def _play_live(self) -> None:
        while not self._stop.is_set() and self._source.grab() is not None:
            captured_at = time.monotonic()  # before it is decoded: that, too, makes it older
            if self._paused.is_set():
                continue
            pixels = self._source.retrieve()
            if pixels is None:
                return
            self._started_at = self._started_at or captured_at
            self._publish(pixels, captured_at, captured_at - self._started_at)

    def _play_recorded(self) -> None:
        start = time.monotonic()
        while not self._stop.is_set():
            start += self._hold()
            at_s = self._source.grab()
            if at_s is None:
                return
            behind = time.monotonic() - (start + at_s)
            if behind < 0:
                self._wait(-behind)
            elif behind > _HOPELESS_S:
                start += behind
            pixels = self._source.retrieve()
            if pixels is not None:  # else a damaged frame; those that follow may be whole
                self._publish(pixels, start + at_s, at_s)

    def _hold(self) -> float:
        """Wait while the video is paused; returns for how long that was."""
        if not self._paused.is_set():
            return 0.0
        since = time.monotonic()
        while self._paused.is_set() and not self._stop.is_set():
            self._wait(0.02)
        return time.monotonic() - since

    def _publish(self, bgr: NDArray[np.uint8], captured_at: float, at_s: float) -> None:
        small, last = shrink(bgr), self._newest
        with self._changed:
            self._scene += last is not None and is_cut(last.small, small)
            self._newest = Frame(bgr, small, self._frames_read, captured_at, at_s, self._scene)
            self._frames_read += 1
            self._times.append(captured_at)
            self._trouble = ""
            self._changed.notify_all()

    def _open_again(self) -> None:
        """Open a live source that fell silent, however long that takes; says so and waits in between."""
        if self._stop.is_set():
            return
        self._source.close()
        silent_since, last_delay = time.monotonic(), 0.0
        for delay in back_off_delays():
            self._trouble = f"{self._source.name} gives no frames; trying again in {delay:g} s"
            # Once the delays no longer grow there is nothing new to say.
            _log.log(logging.WARNING if delay > last_delay else logging.INFO, "%s", self._trouble)
            last_delay = delay
            self._wait(delay)
            if self._stop.is_set() or self._try_open():
                break
        if not self._stop.is_set():
            _log.warning("%s is back after %.0f s", self._source.name, time.monotonic() - silent_since)

    def _try_open(self) -> bool:
        try:
            source = self._source.reopen()
        except CameraError as error:
            _log.debug("%s", error)
            return False
        if source.grab() is None:  # there again, but not yet giving frames
            source.close()
            return False
        self._source = source
        return True
