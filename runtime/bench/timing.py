"""Times of variants that take turns: whatever else the machine does meets them alike."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

WARM_UP_ROUNDS = 2


@dataclass(frozen=True)
class Times:
    """Milliseconds of one variant, over all rounds."""

    median: float
    p95: float
    """Nearest rank."""
    least: float
    cpu_median: float
    """Processor time of the whole process meanwhile, all threads together."""
    count: int


@dataclass(frozen=True)
class Sample:
    """One call, or one piece of its work."""

    wall_ms: float
    cpu_ms: float


Key = TypeVar("Key", bound=Hashable)


def take_turns(
    variants: Mapping[Key, Callable[[int], float | None]],
    rounds: int,
    warm_up: int = WARM_UP_ROUNDS,
    seconds: float = math.inf,
) -> dict[Key, list[Sample]]:
    """Call every variant once in each round, in a new order each time.

    Args:
        variants: What to call, with the number of the round. What it returns is how many pieces of work it
            did, for the time of one; None means one.
        rounds: Rounds that count.
        warm_up: Rounds before that do not.
        seconds: After as long no further round begins, once one has counted.

    Returns:
        For each variant its calls, one for each round.
    """
    shuffler = random.Random(0)
    taken: dict[Key, list[Sample]] = {key: [] for key in variants}
    until = time.perf_counter() + seconds
    for turn in range(warm_up + rounds):
        if turn > warm_up and time.perf_counter() > until:
            break
        for key in shuffler.sample(list(variants), len(variants)):
            sample = _timed(variants[key], turn)
            if turn >= warm_up:
                taken[key].append(sample)
    return taken


def _timed(work: Callable[[int], float | None], turn: int) -> Sample:
    cpu, wall = time.process_time(), time.perf_counter()
    pieces = work(turn) or 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Sample(1e3 * wall / pieces, 1e3 * cpu / pieces)


def summarize(samples: Sequence[Sample]) -> Times:
    """Median, 95th percentile, least, processor time and number.

    >>> summarize([Sample(float(ms), 1.0) for ms in range(1, 21)])
    Times(median=10.5, p95=19.0, least=1.0, cpu_median=1.0, count=20)
    """
    walls = sorted(sample.wall_ms for sample in samples)
    return Times(
        median=round(statistics.median(walls), 3),
        p95=round(walls[math.ceil(0.95 * len(walls)) - 1], 3),
        least=round(walls[0], 3),
        cpu_median=round(statistics.median(sample.cpu_ms for sample in samples), 3),
        count=len(walls),
    )


def paired_ratio(theirs: Sequence[Sample], mine: Sequence[Sample]) -> float:
    """The median of the ratios of each round; more than 1 where mine is faster."""
    ratios = [their.wall_ms / my.wall_ms for their, my in zip(theirs, mine, strict=True)]
    return round(statistics.median(ratios), 3)
