"""Several processes at once, each with a session of one thread: how much more they do together.

Run as a program, ``python -m kiloword.runtime.bench.processes CPU [BUNDLE]``, it loads a bundle, then
captions as many pictures as each line of stdin says and answers with a line.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kiloword.runtime.bench.timing import paired_ratio, summarize, take_turns
from kiloword.runtime.errors import KilowordError
from kiloword.runtime.threads import powers_of_two

_PHOTOS_PER_ROUND = 24
_BATCH_SIZE = 8


@dataclass(frozen=True)
class Together:
    """Processes that caption at the same time."""

    processes: int
    photos_per_s: float
    """All of them together."""
    times_one: float
    """Over what one of them does alone, in the same minute."""


def measure_processes(bundle: Path | None, cpus: Sequence[int], rounds: int) -> list[Together]:
    """Caption with one process, with two, ..., with one on each processor, in turns.

    Args:
        bundle: Its directory; None for the one in the package.
        cpus: Processors to use.
        rounds: How often each number of processes; the medians count.
    """
    counts = powers_of_two(len(cpus))
    with _workers(bundle, cpus) as workers:
        work = {count: partial(_caption_all, workers[:count]) for count in counts}
        taken = take_turns(work, rounds)
    alone = taken[1]
    return [
        Together(
            count,
            photos_per_s=round(1e3 / summarize(samples).median, 2),
            times_one=paired_ratio(alone, samples),
        )
        for count, samples in taken.items()
    ]


@contextmanager
def _workers(bundle: Path | None, cpus: Sequence[int]) -> Iterator[list[subprocess.Popen[str]]]:
    module = [sys.executable, "-m", "kiloword.runtime.bench.processes"]
    option = [] if bundle is None else [str(bundle)]
    started = [
        subprocess.Popen(
            [*module, str(cpu), *option], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )
        for cpu in cpus
    ]
    try:
        yield started
    finally:
        for process in started:
            process.communicate()


def _caption_all(workers: Sequence[subprocess.Popen[str]], _turn: int) -> float:
    """Let each caption a round's photos, and wait for all; returns how many they were together."""
    for worker in workers:
        if worker.stdin:
            worker.stdin.write(f"{_PHOTOS_PER_ROUND}\n")
            worker.stdin.flush()
    for worker in workers:
        if worker.stdout is None or not worker.stdout.readline():
            raise KilowordError("a process that captions has ended", found="no answer")
    return _PHOTOS_PER_ROUND * len(workers)


def _serve(cpu: int, bundle: str | None) -> None:
    """What each process does."""
    import numpy as np

    from kiloword.runtime.bench.pictures import pixels_of
    from kiloword.runtime.captioner import Captioner

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})
    captioner = Captioner.load(bundle, provider="cpu", threads=1)
    batch = np.stack(pixels_of((), captioner.bundle.manifest.image)[:_BATCH_SIZE])
    captioner.caption_pixels(batch, num_beams=1)
    for line in sys.stdin:
        for _ in range(0, int(line), len(batch)):
            captioner.caption_pixels(batch, num_beams=1)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
