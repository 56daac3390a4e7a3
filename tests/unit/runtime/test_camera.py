"""Sources that OpenCV opens; those that cannot be opened say what is there."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kiloword.runtime import camera
from kiloword.runtime.camera import VideoSource, open_source, without_password
from kiloword.runtime.errors import CameraError, MissingDependencyError
from kiloword.runtime.newest import NewestFrame
from tests.videos import make_video


class FakeCapture:
    """Stands for cv2.VideoCapture, with time stamps as a container may have them."""

    def __init__(self, stamps_ms: list[float], pixels: NDArray[np.uint8] | None = None) -> None:
        self._stamps_ms = stamps_ms
        self._pixels = pixels
        self._grabbed = 0
        self.released = False

    def grab(self) -> bool:
        self._grabbed += 1
        return self._grabbed <= len(self._stamps_ms)

    def retrieve(self) -> tuple[bool, NDArray[np.uint8] | None]:
        return self._pixels is not None, self._pixels

    def get(self, _property: int) -> float:
        return self._stamps_ms[self._grabbed - 1]

    def release(self) -> None:
        self.released = True


def times(stamps_ms: list[float]) -> list[float | None]:
    """The times that a file at 10 frames a second is said to have, to its end."""
    source = VideoSource(FakeCapture(stamps_ms), "a.mp4", frames_per_second=10.0, recorded=True)
    return [source.grab() for _ in range(len(stamps_ms) + 1)]


def test_a_files_own_time_stamps_count() -> None:
    """A telephone's video has no fixed rate: subtitles by frame numbers would drift from the sound."""
    assert times([0.0, 50.0, 400.0, 410.0]) == [0.0, 0.05, 0.4, 0.41, None]


@pytest.mark.parametrize("stamps_ms", [[0.0] * 4, [float("nan")] * 4, [-1.0] * 4])
def test_without_time_stamps_frames_are_counted(stamps_ms: list[float]) -> None:
    assert times(stamps_ms)[1:] == pytest.approx([0.1, 0.2, 0.3, None])


def test_time_never_goes_back() -> None:
    """B-frames and damaged files have such stamps."""
    found = times([0.0, 100.0, 60.0, 300.0])[:4]
    assert found == sorted(found, key=lambda at_s: at_s or 0.0)
    assert found[3] == 0.3


def test_a_grey_camera_has_three_colours_too() -> None:
    source = VideoSource(FakeCapture([0.0], np.full((4, 6), 9, dtype=np.uint8)), "0")
    assert source.grab() == 0.0
    pixels = source.retrieve()
    assert pixels is not None
    assert pixels.shape == (4, 6, 3)


def test_a_damaged_frame_is_none() -> None:
    assert VideoSource(FakeCapture([0.0]), "0").retrieve() is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://me:secret@10.0.0.7/live", "rtsp://me:***@10.0.0.7/live"),
        ("http://10.0.0.7:8080/a@b:c", "http://10.0.0.7:8080/a@b:c"),
        ("rtsp://me@10.0.0.7/live", "rtsp://me@10.0.0.7/live"),
        ("C:/a.mp4", "C:/a.mp4"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    """They would end up in logs and in screenshots."""
    assert without_password(url) == shown


def test_an_error_shows_no_password() -> None:
    pytest.importorskip("cv2")
    with pytest.raises(CameraError) as caught:
        open_source("http://me:secret@127.0.0.1:9/live")
    assert "secret" not in str(caught.value)


def test_a_video_file(tmp_path: Path) -> None:
    """The file's own frame rate and number of frames come from the code that wrote it."""
    source = open_source(str(make_video(tmp_path / "a.mp4", frames=6, frames_per_second=60)))
    assert source.frames_per_second == pytest.approx(60, rel=0.01)
    with NewestFrame(source) as newest:
        while not newest.ended:
            time.sleep(0.01)
        frame = newest.latest()
    assert newest.frames_read == 6
    assert frame is not None
    assert frame.bgr.shape == (96, 128, 3)
    assert frame.at_s == pytest.approx(5 / 60, rel=0.01)


def test_a_file_called_like_a_number_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "a.mp4", frames=2).rename(tmp_path / "7")
    monkeypatch.chdir(tmp_path)
    assert open_source("7").name == "7"


@pytest.mark.parametrize("source", ["nowhere.mp4", ".", "nonsense"])
def test_no_such_video(source: str) -> None:
    pytest.importorskip("cv2")
    with pytest.raises(CameraError, match="no such video") as caught:
        open_source(source)
    assert source in str(caught.value)
    assert "--source video.mp4" in str(caught.value)


def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(CameraError, match=r"notes\.mp4: this video cannot be opened"):
        open_source(str(tmp_path / "notes.mp4"))


def test_no_camera_says_what_there_is() -> None:
    pytest.importorskip("cv2")
    with pytest.raises(CameraError) as caught:
        open_source("97")
    message = str(caught.value)
    assert "camera 97" in message
    assert "cameras" in message
    assert "--source video.mp4" in message


@pytest.mark.skipif(sys.platform != "linux", reason="Linux lists its cameras in /dev")
def test_cameras_are_listed_with_their_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """/dev and /sys are replaced by folders laid out as Linux documents them (v4l2)."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "video0").touch()
    (tmp_path / "dev" / "video2").touch()
    (tmp_path / "sys/class/video4linux/video0").mkdir(parents=True)
    (tmp_path / "sys/class/video4linux/video0/name").write_text("HD Webcam\n")
    monkeypatch.setattr(
        camera, "Path", lambda *parts: tmp_path.joinpath(*(part.lstrip("/") for part in parts))
    )
    listed = camera.describe_cameras()
    assert "video0 (HD Webcam)" in listed
    assert listed.endswith("video2")


@pytest.mark.parametrize(
    ("stated", "used"), [(25.0, 25.0), (0.0, 30.0), (float("nan"), 30.0), (-1.0, 30.0), (90000.0, 30.0)]
)
def test_frame_rates_that_cannot_be_are_replaced(stated: float, used: float) -> None:
    assert camera.frame_rate(stated) == used


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "kiloword\[camera\]"'):
        open_source("0")
