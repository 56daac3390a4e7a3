"""Live captions: of the newest frame, with its age; what the window shows; how a run ends."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ImageFont

from kiloword.runtime.camera import Frame, NewestFrame, VideoSource
from kiloword.runtime.captioner import Caption, Captioner
from kiloword.runtime.errors import CameraError
from kiloword.runtime.live import LiveCaption, LiveSummary, LiveWriter, live_captions, run_live
from kiloword.runtime.window import compose, wrap
from tests.bundles import make_tiny_bundle


class FakeCapture:
    """Stands for cv2.VideoCapture."""

    def __init__(self, frames: int) -> None:
        self._left = frames

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        self._left -= 1
        return (False, None) if self._left < 0 else (True, np.zeros((16, 16, 3), dtype=np.uint8))

    def release(self) -> None:
        pass


class FakeView:
    """Counts what it is shown and asks to end after a number of frames."""

    def __init__(self, close_after: int | None = None) -> None:
        self.shown = 0
        self.captions: set[int] = set()
        self._close_after = close_after

    def show(self, frame: Frame, live: LiveCaption | None) -> bool:
        self.shown += 1
        if live is not None:
            self.captions.add(live.frame_index)
        time.sleep(0.002)
        return self._close_after is None or self.shown < self._close_after


def live(text: str = "a dog", index: int = 3, age_ms: float = 41.26) -> LiveCaption:
    """A live caption with known facts."""
    caption = Caption(text, 0.5, (), (), 30.0, "tiny")
    return LiveCaption(
        caption, index, time.monotonic(), age_ms, datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    )


def video(frames: int, frames_per_second: float = 100.0) -> NewestFrame:
    """A fake video of so many frames."""
    return NewestFrame(VideoSource(FakeCapture(frames), "fake", frames_per_second))


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    directory: Path = tmp_path_factory.mktemp("bundle")
    make_tiny_bundle(directory)
    return Captioner.load(directory, provider="cpu", threads=1)


def test_captions_carry_frame_and_age(captioner: Captioner) -> None:
    """Age runs from capture to caption, so it is at least the captioner's own time."""
    with video(20) as newest:
        captions = list(live_captions(captioner, newest))
    indexes = [item.frame_index for item in captions]
    assert indexes == sorted(set(indexes))
    assert indexes[-1] == 19
    assert all(item.age_ms >= item.caption.latency_ms for item in captions)


def test_max_frames_counts_captions(captioner: Captioner) -> None:
    with video(1000) as newest:
        assert len(list(live_captions(captioner, newest, max_frames=3))) == 3


def test_the_view_shows_while_captions_are_made() -> None:
    """Two captions that take 100 ms each: the picture must go on moving meanwhile."""

    def slow() -> Iterator[LiveCaption]:
        for index in range(2):
            time.sleep(0.1)
            yield live(index=index)

    view, got = FakeView(), []
    with video(100) as newest:
        run_live(slow(), newest, got.append, view)
    assert [item.frame_index for item in got] == [0, 1]
    assert view.shown > 4
    assert 0 in view.captions


def test_closing_the_view_ends_the_run(captioner: Captioner) -> None:
    view = FakeView(close_after=3)
    start = time.monotonic()
    with video(10_000) as newest:
        run_live(live_captions(captioner, newest), newest, lambda _: None, view)
    assert view.shown == 3
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("view", [None, FakeView()], ids=["headless", "window"])
def test_errors_of_the_camera_come_out(captioner: Captioner, view: FakeView | None) -> None:
    with video(0) as newest, pytest.raises(CameraError, match="gives no frames"):
        run_live(live_captions(captioner, newest), newest, lambda _: None, view)


def test_jsonl_line() -> None:
    """Names as in the design: time stamp, age, caption, confidence; and the frame."""
    stream = io.StringIO()
    LiveWriter(stream, "jsonl").write(live())
    assert json.loads(stream.getvalue()) == {
        "time": "2026-01-02T03:04:05.000+00:00",
        "frame": 3,
        "age_ms": 41.3,
        "caption": "a dog",
        "confidence": 0.5,
        "bundle": "tiny",
        "latency_ms": 30.0,
        "reliable": True,
        "reason": None,
    }


def test_text_is_written_when_the_words_change() -> None:
    stream = io.StringIO()
    writer = LiveWriter(stream, "text")
    for index, text in enumerate(["a dog", "a dog", "a cat", "a dog"]):
        writer.write(live(text, index))
    lines = stream.getvalue().splitlines()
    assert [line.split("  (")[0] for line in lines] == ["a dog", "a cat", "a dog"]
    assert lines[1] == "a cat  (confidence 0.50, frame 2, 41 ms old)"


def test_summary() -> None:
    """Median and longest of 10, 20 and 60 ms."""
    summary = LiveSummary()
    assert summary.line(1) == "0 captions of 1 frame"
    for age_ms in (10.0, 60.0, 20.0):
        summary.add(live(age_ms=age_ms))
    assert (
        summary.line(9) == "3 captions of 9 frames; age from capture to caption: median 20 ms, longest 60 ms"
    )


def test_the_window_keeps_the_picture_and_adds_a_panel() -> None:
    """The frame's own pixels are on top, unchanged; below, text makes some pixels bright."""
    bgr = np.random.default_rng(0).integers(0, 256, (360, 640, 3), dtype=np.uint8)
    picture = compose(bgr, live())
    assert picture.shape[1] == 640
    assert np.array_equal(picture[:360], bgr)
    assert picture[360:].max() > 200
    assert compose(bgr, None).shape == picture.shape  # the window must not jump at the first caption


def test_small_frames_are_enlarged_so_that_text_has_room() -> None:
    assert compose(np.zeros((96, 128, 3), dtype=np.uint8), live()).shape[1] >= 480


def test_other_alphabets_are_drawn() -> None:
    """OpenCV's putText would write a question mark for each letter; these two must differ."""
    black = np.zeros((360, 640, 3), dtype=np.uint8)
    dog, cat = (compose(black, live(text))[360:430] for text in ("žluťoučký", "čeština å"))
    assert not np.array_equal(dog, cat)


def test_wrap() -> None:
    """The width is measured from the words that must fit; a word that is too wide is not lost."""
    font = ImageFont.load_default(20)
    width = int(font.getlength("a dog runs"))
    assert wrap("a dog runs over a hill", font, width + 1)[0] == "a dog runs"
    assert wrap("", font, width) == [""]
    assert wrap("x" * 200, font, width) == ["x" * 200]
