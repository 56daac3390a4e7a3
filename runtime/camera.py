"""Cameras, video files and streams, as OpenCV opens them; `newest.NewestFrame` reads them.

The only module that imports OpenCV (188 MB, the extra `camera`), and only when a source is opened.
"""

from __future__ import annotations

import math
import os
import re
import stat
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kiloword.runtime.errors import CameraError, MissingDependencyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_URL_TIMEOUT_MS = 10_000
_FALLBACK_FRAMES_PER_SECOND = 30.0
_MAX_FRAMES_PER_SECOND = 240.0  # some containers give their time base (1000 or 90000) as the frame rate
_PROBED_CAMERAS = 4
_EXAMPLE = "kiloword webcam --source video.mp4 --headless"


class FrameSource(Protocol):
    """What frames come from.

    Attributes:
        name: What the user called it, without a password.
        recorded: True for what has an end and a time of its own (a file, a folder); False for what is live.
        frames_per_second: The rate that it states, or a usual one.
    """

    @property
    def name(self) -> str:
        """What the user called it."""

    @property
    def recorded(self) -> bool:
        """Whether it has an end and a time of its own."""

    @property
    def frames_per_second(self) -> float:
        """The rate that it states."""

    def grab(self) -> float | None:
        """Go to the next frame: its time in seconds from the start (0 where live); None at the end."""

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The pixels of the frame that was grabbed, uint8 (height, width, 3), blue first."""

    def reopen(self) -> FrameSource:
        """Open the same again after it fell silent; raises `CameraError` while that fails."""

    def close(self) -> None:
        """Give it back."""


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
    """An open camera, file or stream; a `FrameSource`.

    Args:
        capture: An opened `cv2.VideoCapture`.
        source: What `open_source` was given.
        name: What to call it.
        frames_per_second: Its rate.
        recorded: Whether it has an end.
        position_property: `cv2.CAP_PROP_POS_MSEC`.
    """

    def __init__(
        self,
        capture: Any,
        source: str,
        *,
        name: str | None = None,
        frames_per_second: float = _FALLBACK_FRAMES_PER_SECOND,
        recorded: bool = False,
        position_property: int = 0,
    ) -> None:
        self._capture = capture
        self._source = source
        self._position_property = position_property
        self._grabbed = 0
        self._last_s = 0.0
        self.name = name or source
        self.frames_per_second = frames_per_second
        self.recorded = recorded

    def grab(self) -> float | None:
        """Go to the next frame: its time in seconds from the start (0 where live); None at the end."""
        if not self._capture.grab():
            return None
        self._grabbed += 1
        return self._position_s() if self.recorded else 0.0

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The pixels of the frame that was grabbed, uint8 (height, width, 3), blue first."""
        success, pixels = self._capture.retrieve()
        if not success or pixels is None:
            return None
        colours: NDArray[np.uint8] = pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
        return colours

    def reopen(self) -> FrameSource:
        """Open the same again; raises `CameraError` while that fails."""
        return open_source(self._source)

    def close(self) -> None:
        """Give the camera back."""
        self._capture.release()

    def _position_s(self) -> float:
        """The frame's own time stamp, for telephones keep no fixed rate; its number where there is none."""
        counted = (self._grabbed - 1) / self.frames_per_second
        stamp = float(self._capture.get(self._position_property)) / 1000.0
        usable = math.isfinite(stamp) and (stamp > self._last_s or self._grabbed == 1)
        self._last_s = stamp if usable else max(self._last_s, counted)
        return self._last_s


def open_source(source: str) -> FrameSource:
    """Open a camera by its number, a video file by its path, or a stream by its URL.

    Args:
        source: `0` and other numbers are cameras, unless a file has that name.

    Raises:
        CameraError: It cannot be opened; the message names it, what cameras there are, and an example.
        MissingDependencyError: OpenCV is not installed.
    """
    cv2 = import_cv2()
    if source.isdecimal() and not Path(source).exists():
        return _open_camera(cv2, int(source), source)
    if "://" in source:
        return _open_url(cv2, source)
    path = Path(source)
    if _is_device(path):
        return _open_camera(cv2, source, source)
    if not path.is_file():
        raise CameraError(
            "no such video",
            path=source,
            expected="a camera's number, a video file, a folder of pictures or a URL",
            found=f"no such file, and {describe_cameras()}",
            hint=_EXAMPLE,
        )
    capture = _checked(cv2.VideoCapture(source, cv2.CAP_FFMPEG), source, "a video that OpenCV reads")
    return _video(cv2, capture, source, recorded=True)


def _open_camera(cv2: Any, device: int | str, source: str) -> VideoSource:
    capture = cv2.VideoCapture(device)
    name = f"camera {device}" if isinstance(device, int) else device
    if not capture.isOpened():
        capture.release()
        raise CameraError("this camera cannot be opened", path=name, found=describe_cameras(), hint=_EXAMPLE)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    rate = frame_rate(capture.get(cv2.CAP_PROP_FPS))
    return VideoSource(capture, source, name=name, frames_per_second=rate)


def _open_url(cv2: Any, source: str) -> VideoSource:
    limits = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        _URL_TIMEOUT_MS,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        _URL_TIMEOUT_MS,
    ]
    capture = _checked(cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits), source, "a video stream")
    # What has an end was recorded and must be played at its own rate; a live stream comes at its own.
    return _video(cv2, capture, source, recorded=capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0)


def _video(cv2: Any, capture: Any, source: str, *, recorded: bool) -> VideoSource:
    return VideoSource(
        capture,
        source,
        name=without_password(source),
        frames_per_second=frame_rate(capture.get(cv2.CAP_PROP_FPS)),
        recorded=recorded,
        position_property=cv2.CAP_PROP_POS_MSEC,
    )


def _checked(capture: Any, source: str, expected: str) -> Any:
    if not capture.isOpened():
        capture.release()
        raise CameraError(
            "this video cannot be opened",
            path=without_password(source),
            expected=expected,
            found="nothing playable",
            hint=_EXAMPLE,
        )
    return capture


def without_password(source: str) -> str:
    """A URL as it may stand in a message or a log.

    >>> without_password("rtsp://me:secret@10.0.0.7/live")
    'rtsp://me:***@10.0.0.7/live'
    """
    return re.sub(r"^(\w[\w+.-]*://[^/@:]*):[^/]*@", r"\1:***@", source)


def frame_rate(stated: float) -> float:
    """The rate that a source states, or a usual one where that cannot be."""
    usable = math.isfinite(stated) and 0 < stated <= _MAX_FRAMES_PER_SECOND
    return stated if usable else _FALLBACK_FRAMES_PER_SECOND


def _is_device(path: Path) -> bool:
    try:
        return stat.S_ISCHR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def describe_cameras() -> str:
    """Say which cameras there are: as Linux lists them, elsewhere by trying the first few numbers."""
    if sys.platform != "linux":
        found = [str(number) for number in range(_PROBED_CAMERAS) if _opens(number)]
        return f"cameras {', '.join(found)}" if found else "no cameras here"
    devices = sorted(Path("/dev").glob("video*"), key=lambda device: (len(device.name), device.name))
    if not devices:
        return "no cameras here"
    return "cameras " + ", ".join(f"{device}{_camera_label(device.name)}" for device in devices)


def _opens(number: int) -> bool:
    capture = import_cv2().VideoCapture(number)
    opened = bool(capture.isOpened())
    capture.release()
    return opened


def _camera_label(device_name: str) -> str:
    try:
        label = Path("/sys/class/video4linux", device_name, "name").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return f" ({label})"
