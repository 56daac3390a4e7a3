"""Recordings: a video with its captions in the picture, read back by OpenCV; subtitles of a session."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiloword.runtime.errors import ConfigError
from kiloword.runtime.newest import NewestFrame
from kiloword.runtime.recorder import VideoFile, check_record_path, own_time_recording, recording
from tests.sources import FakeSource, live_caption, scene
from tests.unit.runtime.test_subtitles import parse


def read_video(path: Path) -> tuple[list[Any], float]:
    """All frames and the rate."""
    cv2 = pytest.importorskip("cv2", reason="no OpenCV: the extra camera is not installed")
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        success, frame = capture.read()
        if not success:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame)


@pytest.mark.parametrize("name", ["a.avi", "a", "a.mp4.txt"])
def test_the_name_says_what_is_wanted(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.mp4, \.srt, \.vtt"):
        check_record_path(str(tmp_path / name))


def test_the_folder_must_be_there(tmp_path: Path) -> None:
    assert check_record_path(str(tmp_path / "A.VTT")) == ".vtt"
    with pytest.raises(ConfigError, match="no such folder"):
        check_record_path(str(tmp_path / "nowhere" / "a.mp4"))


def test_the_caption_is_in_the_picture(tmp_path: Path) -> None:
    """Without a caption the grey frame stays grey; with one there is white at the bottom, and only there."""
    pytest.importorskip("cv2")
    file = VideoFile(str(tmp_path / "a.mp4"), 10.0)
    grey = np.full((240, 321, 3), 120, dtype=np.uint8)  # an odd width, which the format does not know
    for text in ("", "a dog runs on grass"):
        for _ in range(5):
            file.write(grey, text)
    assert not (tmp_path / "a.mp4").exists()  # under its name when it is complete
    file.close()
    frames, rate = read_video(tmp_path / "a.mp4")
    assert (len(frames), rate) == (10, pytest.approx(10, rel=0.01))
    assert frames[0].shape == (240, 320, 3)
    assert np.abs(frames[0].astype(int) - 120).max() < 12
    assert frames[-1][200:].max() > 200
    assert np.abs(frames[-1][:180].astype(int) - 120).max() < 12
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_frames_of_another_size_fit_the_first(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    file = VideoFile(str(tmp_path / "a.mp4"), 10.0)
    for size in ((96, 128), (200, 100)):
        file.write(np.full((*size, 3), 60, dtype=np.uint8), "")
    file.close()
    assert [frame.shape for frame in read_video(tmp_path / "a.mp4")[0]] == [(96, 128, 3)] * 2


def test_a_video_without_a_frame_is_no_file(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    VideoFile(str(tmp_path / "a.mp4"), 10.0).close()
    assert list(tmp_path.iterdir()) == []


def test_a_session_is_recorded(tmp_path: Path) -> None:
    """Half a second at 20 frames a second; the caption comes in between."""
    pytest.importorskip("cv2")
    source = FakeSource([scene(0)] * 10, frames_per_second=20.0)
    with NewestFrame(source) as newest, recording(str(tmp_path / "a.mp4"), newest) as recorder:
        assert recorder is not None
        newest.wait_newer(4)
        recorder.add(live_caption("a dog"))
        while not newest.ended:
            time.sleep(0.01)
        time.sleep(0.15)
    frames, rate = read_video(tmp_path / "a.mp4")
    assert rate == pytest.approx(20, rel=0.01)
    assert len(frames) >= 2


def test_the_subtitles_of_a_session(tmp_path: Path) -> None:
    """They end when the source does: ten frames at twenty a second."""
    source = FakeSource([scene(0)] * 10, frames_per_second=20.0)
    with NewestFrame(source) as newest, recording(str(tmp_path / "a.srt"), newest) as recorder:
        assert recorder is not None
        recorder.add(live_caption("a dog", 0))
        recorder.add(live_caption("dogs", 1, changed=False))
        recorder.add(live_caption("a cat", 3))
        while not newest.ended:
            time.sleep(0.01)
    cues = parse((tmp_path / "a.srt").read_text(encoding="utf-8"), "srt")
    assert [(cue.start_s, cue.end_s, cue.lines) for cue in cues] == [
        (0.0, 0.3, ("a dog",)),
        (0.3, 0.5, ("a cat",)),
    ]


def test_without_a_name_nothing_is_recorded() -> None:
    source = FakeSource([scene(0)])
    with recording(None, NewestFrame(source)) as recorder:
        assert recorder is None
    with own_time_recording(None, source) as nothing:
        assert nothing == (None, None)
