"""How far a run is: logged lines by default; a subclass may draw."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger(__name__)


class Progress:
    """Logs at most every ``interval`` seconds, with the rate and the time left."""

    def __init__(self, interval: float = 10.0) -> None:
        self._interval = interval
        self._next = 0.0
        self._started: dict[str, tuple[float, int]] = {}

    def count(self, task: str, done: int, total: int) -> None:
        """Preparation: ``done`` of ``total`` photos are decoded or encoded."""
        left = self._seconds_left(task, done, total)
        if self._is_due():
            logger.info("%s: %d of %d, %s left", task, done, total, duration(left))

    def step(self, stage: str, done: int, total: int, loss: float, photos_per_second: float) -> None:
        """Training: ``done`` of ``total`` steps of a stage."""
        left = self._seconds_left(stage.split(",")[0], done, total)
        if self._is_due() or done == total:
            logger.info(
                "%s, step %d/%d: loss %.3f, %.0f photos/s, %s left in this stage",
                stage,
                done,
                total,
                loss,
                photos_per_second,
                duration(left),
            )

    def note(self, text: str) -> None:
        """Something worth a line of its own."""
        logger.info("%s", text)

    def _seconds_left(self, task: str, done: int, total: int) -> float:
        started, first = self._started.setdefault(task, (time.monotonic(), done))
        if done == first:
            return float("nan")
        return (time.monotonic() - started) / (done - first) * (total - done)

    def _is_due(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._interval
        return True


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(42), duration(600), duration(7500)
    ('42 s', '10 min', '2 h 05 min')
    """
    if seconds != seconds:
        return "unknown time"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
