"""The bar on stderr while a folder is captioned; silent when nobody looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


class CaptionProgress:
    """A progress bar on stderr that steps aside for lines on stdout. Use it in a `with` statement.

    It has no thread that redraws it, so it never writes into the middle of a caption's line.

    Args:
        enabled: False makes every method do nothing.
        count_photos: Counts the photos to come; called in a thread, for a walk over a slow disk takes its
        time.
            None where they cannot be counted in advance.
    """

    def __init__(self, *, enabled: bool, count_photos: Callable[[], int] | None = None) -> None:
        self._bar = _make_bar() if enabled else None
        self._count_photos = count_photos
        self._total: int | None = None
        self._photos = 0
        self._failed = 0
        self._start = time.monotonic()

    def __enter__(self) -> CaptionProgress:
        if self._bar is not None:
            self._bar.add_task("captioning", total=None, failed="")
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

    def advance(self, *, failed: bool) -> None:
        """Count one photo."""
        if self._bar is None:
            return
        self._photos += 1
        self._failed += failed
        self._bar.update(
            self._bar.task_ids[0],
            advance=1,
            total=self._total,
            failed=f"{self._failed} failed" if self._failed else "",
            refresh=True,
        )

    def _count(self) -> None:
        if self._count_photos is not None:
            self._total = self._count_photos()


def _make_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[failed]}"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
