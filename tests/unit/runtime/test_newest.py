"""The newest frame and only that; a camera that is unplugged comes back; a pause. Sources are fakes."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from itertools import islice

import numpy as np
import pytest

from kiloword.runtime.errors import CameraError
from kiloword.runtime.newest import Frame, NewestFrame, back_off_delays
from tests.sources import FakeSource, Picture, frame, scene

TIMEOUT_S = 30.0


def counting(frames: int) -> list[Picture]:
    """Pictures that carry their number."""
    return [np.full((24, 32, 3), number % 256, dtype=np.uint8) for number in range(frames)]


def wait_until(condition: object) -> None:
    """Wait for what another thread does."""
    assert callable(condition)
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Camera:
    """A live source whose pictures are released one by one by the test."""

    def __init__(self, frames: int) -> None:
        self._released = threading.Semaphore(0)
        self.source = FakeSource(counting(frames), recorded=False, before_each=self._wait)

    def _wait(self) -> None:
        self._released.acquire(timeout=TIMEOUT_S)

    def shoot(self, frames: int = 1) -> None:
        self._released.release(frames)


def test_frames_that_nobody_took_are_gone() -> None:
    """In OpenCV's own queue the second look would see the second frame (opencv#13145)."""
    camera = Camera(50)
    with NewestFrame(camera.source) as newest:
        camera.shoot()
        first = newest.wait_newer(-1)
        camera.shoot(40)
        wait_until(lambda: newest.frames_read == 41)
        second = newest.wait_newer(0)
        camera.shoot(10)  # so that the thread can end
    assert first is not None
    assert second is not None
    assert (first.index, second.index, int(second.bgr[0, 0, 0])) == (0, 40, 40)


def test_a_slow_consumer_of_a_file_does_not_fall_behind() -> None:
    """100 frames a second against 20: the age stays that of one frame and does not grow."""
    ages, seen = [], []
    with NewestFrame(FakeSource(counting(60))) as newest:
        index = -1
        while (found := newest.wait_newer(index)) is not None:
            ages.append(found.age_ms())
            seen.append(found.index)
            index = found.index
            time.sleep(0.05)
    assert len(seen) < 30
    assert seen == sorted(set(seen))
    assert seen[-1] == 59  # the last one is there to be captioned at the end
    # A new frame comes each 10 ms; in a queue the delay would pass a second. The rest is room for a busy CPU.
    assert statistics.median(ages) < 200


def test_a_file_plays_at_its_own_rate() -> None:
    """25 frames at 50 a second last half a second; played as fast as it decodes it would be over at once."""
    start = time.monotonic()
    seen: list[Frame] = []
    with NewestFrame(FakeSource(counting(25), frames_per_second=50.0)) as newest:
        while (found := newest.wait_newer(seen[-1].index if seen else -1)) is not None:
            seen.append(found)
    assert time.monotonic() - start > 0.45
    assert seen[-1].index == 24
    assert all(int(one.bgr[0, 0, 0]) == one.index for one in seen)
    assert all(one.at_s == pytest.approx(one.index / 50) for one in seen)


def test_a_file_that_decodes_too_slowly_plays_slowly_and_every_frame_comes() -> None:
    """1000 frames a second of which each takes 30 ms: a clock that runs ahead would make every frame late."""
    source = FakeSource(counting(30), frames_per_second=1000.0, before_each=lambda: time.sleep(0.03))
    seen: list[Frame] = []
    with NewestFrame(source) as newest:
        while (found := newest.wait_newer(seen[-1].index if seen else -1)) is not None:
            seen.append(found)
    assert newest.frames_read == 30
    assert seen[-1].captured_at - seen[0].captured_at > 0.5  # thirty times 30 ms, less what it may catch up


def test_cuts_are_counted() -> None:
    pictures = [scene(0)] * 3 + [scene(1)] * 3 + [scene(2)]
    scenes = []
    camera = FakeSource(pictures, frames_per_second=50.0)
    with NewestFrame(camera) as newest:
        index = -1
        while (found := newest.wait_newer(index)) is not None:
            scenes.append((found.index, found.scene))
            index = found.index
    assert all(number == (index >= 3) + (index >= 6) for index, number in scenes)
    assert scenes[-1] == (6, 2)


def test_rgb_is_the_other_way_round() -> None:
    one = frame(np.array([[[1, 2, 3]]], dtype=np.uint8))
    assert one.rgb.tolist() == [[[3, 2, 1]]]
    assert one.rgb.flags["C_CONTIGUOUS"]


def test_the_source_is_closed_at_the_end() -> None:
    """Otherwise the camera's light stays on and no other program gets it."""
    source = FakeSource(counting(1000), recorded=False, before_each=lambda: time.sleep(0.001))
    with NewestFrame(source) as newest:
        assert newest.wait_newer(-1) is not None
    assert source.closed


def test_a_source_without_any_frame_is_an_error() -> None:
    for recorded in (True, False):
        source = FakeSource([], recorded=recorded, name="empty.mp4")
        with NewestFrame(source) as newest, pytest.raises(CameraError, match=r"empty\.mp4: gives no frames"):
            newest.wait_newer(-1)


def test_an_exception_in_the_reader_reaches_the_consumer() -> None:
    def broken() -> None:
        raise RuntimeError("driver")

    source = FakeSource(counting(1), before_each=broken)
    with NewestFrame(source) as newest, pytest.raises(RuntimeError, match="driver"):
        newest.wait_newer(-1)


def test_the_delays_grow_to_ten_seconds() -> None:
    assert list(islice(back_off_delays(), 8)) == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_an_unplugged_camera_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """Three frames; then twice an error, once a camera that opens and shows nothing; then frames."""
    again = FakeSource([scene(5)] * 4, recorded=False)
    hold = threading.Event()
    again._before_each = lambda: hold.wait(TIMEOUT_S) if again.grabbed == 4 else None
    reopened = iter([CameraError("gone"), CameraError("gone"), FakeSource([], recorded=False), again])
    first = FakeSource(counting(3), recorded=False, reopened=reopened)
    waits: list[float] = []
    troubles: list[str] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        troubles.append(newest.trouble)

    newest = NewestFrame(first, wait=wait)
    with caplog.at_level(logging.WARNING, "kiloword"), newest:
        found = newest.wait_newer(2)
        wait_until(lambda: newest.frames_read == 6)
        assert newest.trouble == ""
        hold.set()
    assert found is not None
    assert found.index >= 3  # frames go on counting
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert troubles[0] == "camera 0 gives no frames; trying again in 0.5 s"
    assert first.closed
    said = [record.getMessage() for record in caplog.records]
    assert said[:4] == [
        f"camera 0 gives no frames; trying again in {delay} s" for delay in ("0.5", "1", "2", "4")
    ]
    assert said[4].startswith("camera 0 is back after ")


def test_it_does_not_repeat_itself_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """A camera that is away for a night: one line for each longer delay, and then silence."""
    attempts = 0

    def wait(_seconds: float) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 30:
            newest._stop.set()

    away = iter([CameraError("gone")] * 30)
    newest = NewestFrame(FakeSource(counting(1), recorded=False, reopened=away), wait=wait)
    with caplog.at_level(logging.WARNING, "kiloword"), newest:
        wait_until(lambda: newest.ended)
    ends = [record.getMessage().rpartition(" in ")[2] for record in caplog.records]
    assert ends == ["0.5 s", "1 s", "2 s", "4 s", "8 s", "10 s"]


def test_leaving_while_the_camera_is_away_takes_no_delay() -> None:
    source = FakeSource(counting(1), recorded=False, reopened=iter([CameraError("gone")] * 99))
    start = time.monotonic()
    with NewestFrame(source) as newest:
        wait_until(lambda: "trying again" in newest.trouble)
    assert not newest._thread.is_alive()
    assert time.monotonic() - start < TIMEOUT_S


def test_a_paused_file_goes_on_where_it_was() -> None:
    with NewestFrame(FakeSource(counting(40), frames_per_second=100.0)) as newest:
        newest.wait_newer(4)
        newest.pause(True)
        assert newest.paused
        time.sleep(0.1)
        before = newest.latest()
        time.sleep(0.3)
        assert newest.latest() is before
        assert newest.frames_per_second == 0
        newest.pause(False)
        assert before is not None
        after = newest.wait_newer(before.index)
    assert after is not None
    assert after.index <= before.index + 5  # and not thirty frames later


def test_a_paused_camera_is_read_and_not_shown() -> None:
    """Or its driver would queue the past."""
    camera = Camera(20)
    with NewestFrame(camera.source) as newest:
        camera.shoot()
        held = newest.wait_newer(-1)
        newest.pause(True)
        camera.shoot(10)
        wait_until(lambda: camera.source.grabbed == 11)
        assert newest.latest() is held
        newest.pause(False)
        camera.shoot(2)
        found = newest.wait_newer(0)
        camera.shoot(9)
    assert found is not None
    assert int(found.bgr[0, 0, 0]) >= 11


def test_waiting_for_a_cut() -> None:
    camera = FakeSource([scene(0)] * 5 + [scene(1)] * 95, frames_per_second=50.0)
    with NewestFrame(camera) as newest:
        newest.wait_newer(-1)
        newest.wait_cut(0, TIMEOUT_S)
        found = newest.latest()
        assert found is not None
        assert found.scene == 1
        newest.wait_cut(1, 0.01)  # none comes; the time is over
