"""The bar on stderr while a folder is captioned; silent when nobody looks."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_REDRAW_S = 0.1
_RATE_OVER_S = 30.0
_NAME_WIDTH = 28


class CaptionProgress:
    """A progress bar on stderr: photos, rate, time left, failures, and the photo that was done last.

    It steps aside for lines on stdout, and has no thread that redraws it, so it never writes into the middle
    of a caption's line. Use it in a `with` statement.

    Args:
        enabled: False makes every method do nothing.
        count_photos: Counts the photos to come; called in a thread, for a walk over a slow disk takes its
            time. None where they cannot be counted in advance.
    """

    def __init__(self, *, enabled: bool, count_photos: Callable[[], int] | None = None) -> None:
        self._bar = _make_bar() if enabled else None
        self._count_photos = count_photos
        self._total: int | None = None
        self._photos = 0
        self._failed = 0
        self._start = time.monotonic()
        self._drawn = 0.0
        self._rate = Rate()

    def __enter__(self) -> CaptionProgress:
        if self._bar is not None:
            self._bar.add_task("captioning", total=None, rate="", left="", failed="", current="")
            self._bar.start()
            if self._count_photos is not None:
                Thread(target=self._count, name="kiloword-count", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            if self._photos > 1:
                seconds = time.monotonic() - self._start
                sys.stderr.write(f"{self._photos} photos in {seconds:.1f} s\n")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar off the screen while something else is written to it."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        yield
        self._bar.start()

    def advance(self, path: str = "", *, failed: bool, fresh: bool = True) -> None:
        """Count one photo.

        Args:
            path: The photo.
            failed: Whether there is no caption.
            fresh: Whether it took work; others say nothing about the time that is left.
        """
        if self._bar is None:
            return
        now = time.monotonic()
        self._photos += 1
        self._failed += failed
        if fresh:
            self._rate.add(now)
        if now - self._drawn < _REDRAW_S and self._photos != self._total:
            return
        self._drawn = now
        self._draw(path, now)

    def _draw(self, path: str, now: float) -> None:
        from kiloword.runtime.outputs import printable, shorten_path

        if self._bar is None:
            return
        rate = self._rate.per_second(now)
        left_s = (self._total - self._photos) / rate if self._total is not None and rate else None
        self._bar.update(
            self._bar.task_ids[0],
            completed=self._photos,
            total=self._total,
            rate="" if rate is None else f"{rate:.1f}/s",
            left="" if left_s is None else f"{duration(left_s)} left",
            failed=f"{self._failed} failed" if self._failed else "",
            current=shorten_path(printable(os.path.basename(path)), _NAME_WIDTH),
            refresh=True,
        )

    def _count(self) -> None:
        if self._count_photos is not None:
            self._total = self._count_photos()


class Rate:
    """How many a second, over the last half minute."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=2000)

    def add(self, now: float) -> None:
        """Count one; ``now`` in seconds."""
        self._times.append(now)

    def per_second(self, now: float) -> float | None:
        """The rate; None before there is one."""
        while self._times and now - self._times[0] > _RATE_OVER_S:
            self._times.popleft()
        if len(self._times) < 2 or self._times[-1] == self._times[0]:
            return None
        # Until now, not until the last one: a run that is stuck must not go on showing its old rate.
        return (len(self._times) - 1) / (now - self._times[0])


def duration(seconds: float) -> str:
    """A time span for people.

    >>> duration(7.2), duration(75), duration(7500), duration(200_000)
    ('7 s', '1 min 15 s', '2 h 05 min', '2 d 07 h')
    """
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02} s"
    if total < 86400:
        return f"{total // 3600} h {total % 3600 // 60:02} min"
    return f"{total // 86400} d {total % 86400 // 3600:02} h"


def _make_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.fields[failed]}", style="red", markup=False),
        TextColumn("{task.fields[current]}", style="dim", markup=False),
        console=Console(file=sys.stderr),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
