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
from kiloword.runtime.reading import stat_of

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
    new: int = 0
    """Photos that the journal has not seen, or not with this size and time: new, changed or moved."""
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
            f"{self.new:,} new, changed or moved",
            f"{self.again:,} to be done again",
        ]
        lines = [f"{self.done + to_do:,} photos: {', '.join(parts)}"]
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
    """Say what a run would do; nothing is written, and only a few photos are read, to measure the time.

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
        for photo in photos:
            if _count(plan, journal, photo, run) and isinstance(photo, str) and len(sample) < most:
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


def _count(plan: RunPlan, journal: Journal | None, photo: str | ImageError, run: FolderRun) -> bool:
    """Count one photo; True if it is to be done."""
    if isinstance(photo, ImageError):
        plan.unreadable += 1
        return False
    known = None if journal is None else _known(journal, photo)
    if known is None:
        plan.new += 1
        return True
    outcome = known[1]
    if outcome is None or run.redo or (run.retry_failed and outcome.error is not None):
        plan.again += 1
        return True
    plan.done += 1
    return False


def _known(journal: Journal, photo: str) -> tuple[bytes, Outcome | None] | None:
    try:
        return journal.unchanged(photo, stat_of(photo))
    except (OSError, ValueError):  # a run would say what is wrong
        return None


def _measure(captioner: Captioner, sample: list[str], options: PipelineOptions) -> float:
    start = time.perf_counter()
    with Pipeline(captioner, sample, options) as pipeline:
        count = sum(len(results) for results in pipeline)
    return (time.perf_counter() - start) / max(1, count)
