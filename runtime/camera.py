"""Frames from a camera, a video file or a URL, of which only the newest is ever kept.

OpenCV queues what a camera delivers, so a program that is slower than the camera sees further and further
into the past (opencv/opencv#13145). Here a thread reads without pause and throws away all but the newest
frame, which carries the moment it was captured.

The only module that imports OpenCV (188 MB, the extra `camera`), and only when a source is opened.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from kiloword.runtime.errors import CameraError, MissingDependencyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_URL_TIMEOUT_MS = 10_000
_FALLBACK_FRAMES_PER_SECOND = 30.0
_MAX_FRAMES_PER_SECOND = 240.0  # some containers give their time base (1000 or 90000) as the frame rate
_EXAMPLE = "kiloword webcam --source video.mp4 --headless"


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    bgr: NDArray[np.uint8]
    """uint8 (height, width, 3), blue first, as OpenCV reads and shows it."""
    index: int
    """Its place among all frames that were read, from 0; captioned ones have gaps between them."""
    captured_at: float
    """When it was captured, in seconds of `time.monotonic`."""

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """uint8 (height, width, 3), red first, as the captioner takes it."""
        return np.ascontiguousarray(self.bgr[:, :, ::-1])

    def age_ms(self) -> float:
        """How long ago it was captured."""
        return (time.monotonic() - self.captured_at) * 1000.0


def import_cv2() -> Any:
    """Import OpenCV, silenced: what is wrong is said once, in our words.

    Raises:
        MissingDependencyError: It is not installed.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")  # Qt misses fonts that we do not use
    try:
        return import_module("cv2")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("opencv-python", "camera") from error


class VideoSource:
    """An open camera, file or stream.

    Attributes:
        name: What the user called it.
        frames_per_second: The rate to play at; None for what is live and sets its own pace.
    """

    def __init__(self, capture: Any, name: str, frames_per_second: float | None) -> None:
        self._capture = capture
        self.name = name
        self.frames_per_second = frames_per_second

    def read(self) -> NDArray[np.uint8] | None:
        """The next frame, uint8 (height, width, 3), blue first; None at the end or without the camera."""
        success, pixels = self._capture.read()
        return pixels if success else None

    def close(self) -> None:
        """Give the camera back."""
        self._capture.release()


def open_source(source: str) -> VideoSource:
    """Open a camera by its number, a video file by its path, or a stream by its URL.

    Args:
        source: `0` and other numbers are cameras, unless a file has that name.

    Raises:
        CameraError: It cannot be opened; the message names it, what cameras there are, and an example.
        MissingDependencyError: OpenCV is not installed.
    """
    cv2 = import_cv2()
    if source.isdecimal() and not Path(source).exists():
        return _open_camera(cv2, int(source))
    if "://" in source:
        limits = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            _URL_TIMEOUT_MS,
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            _URL_TIMEOUT_MS,
        ]
        return _checked(cv2, cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits), source, "a video stream")
    if not Path(source).is_file():
        raise CameraError(
            "no such video",
            path=source,
            expected="a camera's number, a video file or a URL",
            found=f"no such file, and {describe_cameras()}",
            hint=_EXAMPLE,
        )
    return _checked(cv2, cv2.VideoCapture(source, cv2.CAP_FFMPEG), source, "a video that OpenCV reads")


def _open_camera(cv2: Any, number: int) -> VideoSource:
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        capture.release()
        raise CameraError(
            "this camera cannot be opened", path=f"camera {number}", found=describe_cameras(), hint=_EXAMPLE
        )
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return VideoSource(capture, f"camera {number}", None)


def _checked(cv2: Any, capture: Any, name: str, expected: str) -> VideoSource:
    if not capture.isOpened():
        capture.release()
        raise CameraError(
            "this video cannot be opened",
            path=name,
            expected=expected,
            found="nothing playable",
            hint=_EXAMPLE,
        )
    # What has an end was recorded and must be played at its own rate; a live stream comes at its own.
    recorded = capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
    return VideoSource(capture, name, _frame_rate(capture.get(cv2.CAP_PROP_FPS)) if recorded else None)


def _frame_rate(stated: float) -> float:
    usable = math.isfinite(stated) and 0 < stated <= _MAX_FRAMES_PER_SECOND
    return stated if usable else _FALLBACK_FRAMES_PER_SECOND


def describe_cameras() -> str:
    """Say which cameras there are, as far as the system lists them (Linux does)."""
    devices = sorted(Path("/dev").glob("video*")) if Path("/dev").is_dir() else []
    if not devices:
        return "no cameras here"
    return "cameras " + ", ".join(f"{device}{_camera_label(device.name)}" for device in devices)


def _camera_label(device_name: str) -> str:
    try:
        label = Path("/sys/class/video4linux", device_name, "name").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return f" ({label})"


class NewestFrame:
    """Reads a source in a thread of its own and keeps the newest frame only.

    A recorded video plays at its own rate, as a camera would: a captioner that is slower sees fewer of its
    frames, never later ones. Use it in a `with` statement: it starts reading there and closes the source at
    the end.
    """

    def __init__(self, source: VideoSource) -> None:
        self._source = source
        self._newest: Frame | None = None
        self._error: Exception | None = None
        self._ended = False
        self._changed = Condition()
        self._stop = Event()
        self._thread = Thread(target=self._read_all, name="kiloword-camera", daemon=True)

    def __enter__(self) -> NewestFrame:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        # A camera can hang in its driver for ever; the daemon thread is then left behind rather than waited
        # for.
        self._thread.join(timeout=2.0)
        if not self._thread.is_alive():
            self._source.close()

    @property
    def frames_read(self) -> int:
        """How many frames came so far, dropped ones included."""
        newest = self._newest
        return 0 if newest is None else newest.index + 1

    def latest(self) -> Frame | None:
        """The newest frame at once; None before the first."""
        return self._newest

    @property
    def ended(self) -> bool:
        """Whether no further frame will come."""
        return self._ended

    def wait_newer(self, index: int) -> Frame | None:
        """Wait for a frame that is newer than the one with this index.

        Args:
            index: That of the last frame that was used; -1 for none yet.

        Returns:
            The newest frame there is then, or None when the video has ended.

        Raises:
            CameraError: The source gave no frame at all, or the camera stopped giving them.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self.frames_read > index + 1)
            if self._newest is not None and self._newest.index > index:
                return self._newest
            if self._error is not None:
                raise self._error
            return None

    def _read_all(self) -> None:
        try:
            self._read_until_end()
        except Exception as error:  # noqa: BLE001  raised again by `wait_newer`
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read_until_end(self) -> None:
        rate = self._source.frames_per_second
        start = time.monotonic()
        index = 0
        while not self._stop.is_set():
            if rate is not None:
                self._stop.wait(max(0.0, start + index / rate - time.monotonic()))
            pixels = self._source.read()
            if pixels is None:
                self._check_end(index)
                return
            with self._changed:
                self._newest = Frame(pixels, index, time.monotonic())
                self._changed.notify_all()
            index += 1

    def _check_end(self, frames_read: int) -> None:
        """The end of a file is no error; a file without frames is, and so is a camera that falls silent."""
        if frames_read == 0:
            raise CameraError(
                "gives no frames", path=self._source.name, found=describe_cameras(), hint=_EXAMPLE
            )
        if self._source.frames_per_second is None and not self._stop.is_set():
            raise CameraError(
                "stopped giving frames", path=self._source.name, hint="plug it in and start again"
            )
