"""What a run would do and how long it would take, without doing it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kiloword.runtime.errors import ImageError
from kiloword.runtime.journal import Journal, work_of
from kiloword.runtime.pipeline import Pipeline, PipelineOptions
from kiloword.runtime.progress import duration
from kiloword.runtime.reading import read_photo, stat_of

if TYPE_CHECKING:
    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.folder_run import FolderRun
    from kiloword.runtime.outputs import Outcome

_SAMPLE_BATCHES = 2


@dataclass
class RunPlan:
    """What a run would do."""

    done: int = 0
    """Photos that are done already, or failed and are not to be tried again."""
    moved: int = 0
    """Photos whose content it knows from another path or time: moved, renamed, copied or touched."""
    new: int = 0
    """Photos whose content it does not know."""
    again: int = 0
    """Photos that it knows and that would be done again: outdated, failed, or because of --redo."""
    unreadable: int = 0
    """Folders and arguments without photos."""
    seconds_per_photo: float | None = None
    measured_now: bool = False
    """Whether this was measured just now, on some of the photos, and not by an earlier run."""

    def lines(self) -> list[str]:
        """The plan for people."""
        to_do = self.new + self.again
        parts = [
            f"{self.done:,} done already",
            *([f"{self.moved:,} known by another name or time"] if self.moved else []),
            f"{self.new:,} new or changed",
            f"{self.again:,} to be done again",
        ]
        lines = [f"{self.done + self.moved + to_do:,} photos: {', '.join(parts)}"]
        if self.unreadable:
            lines.append(f"{self.unreadable:,} paths without photos")
        if to_do and self.seconds_per_photo:
            source = "measured on some of them" if self.measured_now else "as in the last run"
            time_each = f"{1000 * self.seconds_per_photo:,.0f} ms a photo, {source}"
            lines.append(f"about {duration(to_do * self.seconds_per_photo)} ({time_each})")
        return lines


def plan_run(
    captioner: Captioner, photos: Iterable[str | ImageError], run: FolderRun, options: PipelineOptions
) -> RunPlan:
    """Say what a run would do; nothing is written.

    Few photos are read: some to measure the time, and those that may be known by another name, as their
    size tells.

    Args:
        captioner: What would caption.
        photos: What `expand_paths` yields.
        run: What would be asked for.
        options: How photos would be captioned.
    """
    plan = RunPlan()
    sample: list[str] = []
    most = _SAMPLE_BATCHES * options.batch_size * options.lanes
    journal = _open(captioner, run, options)
    try:
        known = None if journal is None else _Known(journal, journal.sizes())
        for photo in photos:
            if _count(plan, known, photo, run) and isinstance(photo, str) and len(sample) < most:
                sample.append(photo)
        plan.seconds_per_photo = None if journal is None else journal.seconds_per_photo()
    finally:
        if journal is not None:
            journal.close()
    if plan.seconds_per_photo is None and sample:
        plan.seconds_per_photo = _measure(captioner, sample, options)
        plan.measured_now = True
    return plan


def _open(captioner: Captioner, run: FolderRun, options: PipelineOptions) -> Journal | None:
    if run.state is None or not os.path.exists(run.state):
        return None
    journal = Journal(run.state)
    settings = captioner.settings_that_count(
        num_beams=options.num_beams, max_new_tokens=options.max_new_tokens
    )
    journal.select_work(work_of(captioner.bundle.manifest, settings))
    return journal


def _count(plan: RunPlan, known: _Known | None, photo: str | ImageError, run: FolderRun) -> bool:
    """Count one photo; True if it is to be done."""
    if isinstance(photo, ImageError):
        plan.unreadable += 1
        return False
    found = None if known is None else known.find(photo)
    if found is None:
        plan.new += 1
        return True
    outcome, elsewhere = found
    if outcome is None or run.redo or (run.retry_failed and outcome.error is not None):
        plan.again += 1
        return True
    plan.moved += elsewhere
    plan.done += not elsewhere
    return False


@dataclass(frozen=True)
class _Known:
    """What the journal knows."""

    journal: Journal
    sizes: set[int]

    def find(self, photo: str) -> tuple[Outcome | None, bool] | None:
        """A photo's outcome, if it has one, and whether only its content is known; None if it is new."""
        try:
            stat = stat_of(photo)
            unchanged = self.journal.unchanged(photo, stat)
            if unchanged is not None:
                return unchanged[1], False
            if stat.st_size not in self.sizes:
                return None
            outcome = self.journal.outcome_of(read_photo(photo).content)
        except (OSError, ValueError, ImageError):  # a run would say what is wrong
            return None
        return None if outcome is None else (outcome, True)


def _measure(captioner: Captioner, sample: list[str], options: PipelineOptions) -> float:
    start = time.perf_counter()
    with Pipeline(captioner, sample, options) as pipeline:
        count = sum(len(results) for results in pipeline)
    return (time.perf_counter() - start) / max(1, count)
