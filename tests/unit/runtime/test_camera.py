"""The newest frame and only that; sources that cannot be opened say what is there."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kiloword.runtime import camera
from kiloword.runtime.camera import Frame, NewestFrame, VideoSource, open_source
from kiloword.runtime.errors import CameraError, MissingDependencyError
from tests.videos import make_video


class FakeCapture:
    """Stands for cv2.VideoCapture: counts frames up in the first pixel, at a rate of its own."""

    def __init__(self, frames: int, seconds_per_frame: float = 0.0) -> None:
        self.left = frames
        self.count = 0
        self.seconds_per_frame = seconds_per_frame
        self.released = False

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        time.sleep(self.seconds_per_frame)
        if self.count == self.left:
            return False, None
        self.count += 1
        return True, np.full((2, 2, 3), self.count - 1, dtype=np.uint8)

    def release(self) -> None:
        self.released = True


def frames_seen(newest: NewestFrame, seconds_per_frame: float) -> list[Frame]:
    """What a consumer sees that takes this long for each frame."""
    seen: list[Frame] = []
    with newest:
        while (frame := newest.wait_newer(seen[-1].index if seen else -1)) is not None:
            seen.append(frame)
            time.sleep(seconds_per_frame)
    return seen


def test_a_slow_consumer_drops_frames_and_never_sees_old_ones() -> None:
    """100 frames a second against 20; in OpenCV's own queue the delay would only grow (opencv#13145)."""
    newest = NewestFrame(VideoSource(FakeCapture(60), "fake", frames_per_second=100.0))
    ages = []
    seen = []
    with newest:
        index = -1
        while (frame := newest.wait_newer(index)) is not None:
            ages.append(frame.age_ms())
            seen.append(frame.index)
            index = frame.index
            time.sleep(0.05)
    assert len(seen) < 30
    assert seen == sorted(set(seen))
    assert seen[-1] == 59  # the last one is there to be captioned at the end
    # A new frame comes each 10 ms; in a queue the delay would pass a second. The rest is room for a busy CPU.
    assert statistics.median(ages) < 100


def test_a_fast_consumer_sees_every_frame_of_a_file_at_its_rate() -> None:
    """25 frames at 50 a second last half a second; played as fast as it decodes it would be over at once."""
    start = time.monotonic()
    seen = frames_seen(NewestFrame(VideoSource(FakeCapture(25), "fake", frames_per_second=50.0)), 0.0)
    seconds = time.monotonic() - start
    assert seen[-1].index == 24
    assert seconds > 0.45
    assert all(int(frame.bgr[0, 0, 0]) == frame.index for frame in seen)


def test_rgb_is_the_other_way_round() -> None:
    frame = Frame(np.array([[[1, 2, 3]]], dtype=np.uint8), 0, 0.0)
    assert frame.rgb.tolist() == [[[3, 2, 1]]]
    assert frame.rgb.flags["C_CONTIGUOUS"]


def test_the_source_is_closed_at_the_end() -> None:
    """Otherwise the camera's light stays on and no other program gets it."""
    capture = FakeCapture(1000, seconds_per_frame=0.001)
    with NewestFrame(VideoSource(capture, "camera 0", None)) as newest:
        assert newest.wait_newer(-1) is not None
        assert newest.latest() is not None
    assert capture.released


def test_a_camera_that_falls_silent_is_an_error() -> None:
    with NewestFrame(VideoSource(FakeCapture(3), "camera 0", None)) as newest:
        while newest.frames_read < 3:
            time.sleep(0.001)
        assert newest.wait_newer(-1) is not None  # what came before is not lost
        with pytest.raises(CameraError, match="camera 0: stopped giving frames"):
            newest.wait_newer(2)


def test_a_source_without_any_frame_is_an_error() -> None:
    with (
        NewestFrame(VideoSource(FakeCapture(0), "empty.mp4", 30.0)) as newest,
        pytest.raises(CameraError, match=r"empty\.mp4: gives no frames"),
    ):
        newest.wait_newer(-1)


def test_an_exception_in_the_reader_reaches_the_consumer() -> None:
    class Broken(FakeCapture):
        def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
            raise RuntimeError("driver")

    with (
        NewestFrame(VideoSource(Broken(1), "x", 30.0)) as newest,
        pytest.raises(RuntimeError, match="driver"),
    ):
        newest.wait_newer(-1)


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
    assert camera._frame_rate(stated) == used


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "kiloword\[camera\]"'):
        open_source("0")
