"""How sure a score is: bootstrap over photos, for one bundle and for the difference of two.

Every score here is a function of sums over photos (BLEU's counts) or a mean over them (ROUGE-L, CIDEr-D), so
a thousand resamples are a thousand small sums and not a thousand scorings. CIDEr-D's word rarity stays that
of the whole set: the resamples ask "other photos of this kind", not "another set of references".

Source: Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004 (also paired).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kiloword.runtime.errors import ConfigError
from kiloword.train.metrics.bleu import count_bleu
from kiloword.train.metrics.cider import CiderScorer
from kiloword.train.metrics.rouge import rouge_l
from kiloword.train.metrics.scores import TokenizedCaptions

__all__ = [
    "LEVEL",
    "METRICS",
    "RESAMPLES",
    "Difference",
    "Interval",
    "compare_tables",
    "intervals",
    "metric_values",
    "photo_table",
]

METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")
"""The scores, in this order in every array of this module; times 100."""
RESAMPLES = 1000
LEVEL = 0.95
"""Share of the resamples inside an interval."""

_MAX_N = 4
# As in metrics/bleu.py, so that both give the same number.
_NUMERATOR_EPSILON = 1e-15
_DENOMINATOR_EPSILON = 1e-9

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """Where a score would lie on other photos of the same kind, 95 times in a hundred."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much better the second set of captions is than the first, on the same photos."""

    metric: str
    """One of `METRICS`."""
    first: float
    second: float
    difference: float
    """second - first."""
    interval: Interval
    """Of the difference; without 0 in it, the difference is more than chance."""
    p_value: float
    """Two-sided: twice how often photos drawn anew would turn the sign around; at least 1 / resamples."""

    @property
    def margin(self) -> float:
        """Half the width of the interval: the number behind "+-"."""
        return (self.interval.high - self.interval.low) / 2

    @property
    def significant(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.interval.low > 0 or self.interval.high < 0


def photo_table(captions: TokenizedCaptions) -> Table:
    """What each photo adds to the scores.

    Args:
        captions: Captions and references, split into tokens; at least one photo.

    Returns:
        float64 (photos, 12): caption length, closest reference length, n-gram matches for n = 1..4, n-grams
        for n = 1..4, ROUGE-L, CIDEr-D; the last two times 100.
    """
    ciders = CiderScorer(captions.references).scores(captions.candidates)
    rows = []
    for references, candidate, cider in zip(captions.references, captions.candidates, ciders, strict=True):
        counts = count_bleu(references, candidate, _MAX_N)
        rows.append(
            (counts.length, counts.reference_length, *counts.matches, *counts.guesses,
             100 * rouge_l(references, candidate), 100 * cider)
        )  # fmt: skip
    return np.array(rows, dtype=np.float64)


def metric_values(sums: Table, photos: int) -> Table:
    """Scores from sums of a table's rows.

    Args:
        sums: float64 (..., 12), columns as `photo_table` makes them.
        photos: How many rows each of them sums.

    Returns:
        float64 (..., 6), in the order of `METRICS`.
    """
    length, reference_length = sums[..., 0] + _NUMERATOR_EPSILON, sums[..., 1] + _DENOMINATOR_EPSILON
    # Where a caption is as long as its reference or longer, the exponent is 0 and the penalty 1.
    penalty = np.exp(np.minimum(0.0, 1 - reference_length / length))
    matches = sums[..., 2 : 2 + _MAX_N] + _NUMERATOR_EPSILON
    guesses = sums[..., 2 + _MAX_N : 2 + 2 * _MAX_N] + _DENOMINATOR_EPSILON
    orders = np.arange(1, _MAX_N + 1)
    bleu = 100 * penalty[..., None] * np.cumprod(matches / guesses, axis=-1) ** (1 / orders)
    values: Table = np.concatenate((bleu, sums[..., 2 + 2 * _MAX_N :] / photos), axis=-1)
    return values


def intervals(table: Table, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval]:
    """Intervals of all scores by drawing as many photos with replacement, again and again.

    Args:
        table: From `photo_table`.
        resamples: How often photos are drawn.
        seed: Another one draws other photos; the same one draws the same.
    """
    values = metric_values(_resampled_sums(table, resamples, seed), len(table))
    return {metric: _interval(values[:, column]) for column, metric in enumerate(METRICS)}


def compare_tables(
    first: Table, second: Table, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Difference, ...]:
    """Compare two captioners on the same photos; each resample draws the same photos for both.

    Args:
        first: From `photo_table`.
        second: The other captioner's; row i is about the same photo.
        resamples: How often photos are drawn.
        seed: Another one draws other photos.

    Raises:
        ConfigError: The tables are about different numbers of photos.
    """
    if len(first) != len(second):
        raise ConfigError([f"expected the same photos twice, found {len(first)} and {len(second)}"])
    photos = len(first)
    sums = _resampled_sums(np.concatenate((first, second), axis=1), resamples, seed)
    width = first.shape[1]
    drawn = metric_values(sums[:, width:], photos) - metric_values(sums[:, :width], photos)
    scores = [metric_values(table.sum(axis=0), photos) for table in (first, second)]
    return tuple(
        Difference(
            metric=metric,
            first=float(scores[0][column]),
            second=float(scores[1][column]),
            difference=float(scores[1][column] - scores[0][column]),
            interval=_interval(drawn[:, column]),
            p_value=_p_value(drawn[:, column]),
        )
        for column, metric in enumerate(METRICS)
    )


def _resampled_sums(table: Table, resamples: int, seed: int) -> Table:
    """Sums (resamples, columns) over photos drawn with replacement, draw by draw: memory stays small."""
    random, photos = np.random.default_rng(seed), len(table)
    sums = np.empty((resamples, table.shape[1]))
    for row in range(resamples):
        times = np.bincount(random.integers(photos, size=photos), minlength=photos)
        sums[row] = times @ table
    return sums


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(low), float(high))


def _p_value(differences: Sequence[float] | NDArray[np.float64]) -> float:
    values = np.asarray(differences)
    smaller = min(float(np.mean(values <= 0)), float(np.mean(values >= 0)))
    return min(1.0, max(2 * smaller, 1 / len(values)))
