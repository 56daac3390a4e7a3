"""Progress lines on a clock that the test turns."""

from __future__ import annotations

import logging
import time

import pytest

from kiloword.train.progress import Progress, duration


class Clock:
    """Seconds since the test began."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kiloword.train.progress")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "2 h 00 min"),
        (7500, "2 h 05 min"),
        (float("nan"), "unknown time"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_steps_are_told_with_rate_and_time_left(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Two steps take 20 s, so the other 90 take 900."""
    shown = Progress()
    shown.step("first, pass 1/2", 8, 100, 3.25, 64.4)
    clock.now = 20.0
    shown.step("first, pass 1/2", 10, 100, 3.125, 64.4)
    assert caplog.messages == [
        "first, pass 1/2, step 8/100: loss 3.250, 64 photos/s, unknown time left in this stage",
        "first, pass 1/2, step 10/100: loss 3.125, 64 photos/s, 15 min left in this stage",
    ]


def test_lines_are_as_rare_as_was_asked_for(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    shown = Progress(interval=10)
    for second in range(25):
        clock.now = float(second)
        shown.count("decoding photos", second, 100)
    assert len(caplog.messages) == 3
    assert caplog.messages[2] == "decoding photos: 20 of 100, 80 s left"


def test_the_last_step_is_always_told(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    shown = Progress()
    for done in (1, 2, 3):
        shown.step("only", done, 3, 1.0, 1.0)
    assert [message.split(":")[0] for message in caplog.messages] == ["only, step 1/3", "only, step 3/3"]


def test_each_task_has_its_own_rate(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Encoding starts at second 100 and does 1 photo a second, whatever decoding took."""
    shown = Progress(interval=0)
    shown.count("decoding photos", 0, 100)
    clock.now = 100.0
    shown.count("encoding photos", 0, 100)
    clock.now = 110.0
    shown.count("encoding photos", 10, 100)
    assert caplog.messages[-1] == "encoding photos: 10 of 100, 90 s left"


def test_notes_are_told_at_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    shown = Progress()
    shown.note("one")
    shown.note("two")
    assert caplog.messages == ["one", "two"]
