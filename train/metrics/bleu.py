"""BLEU, over a whole corpus, with the closest reference length.

Source: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kiloword.train.metrics.ngrams import Ngram, Tokens, count_ngrams

__all__ = ["BleuCounts", "bleu_from_counts", "corpus_bleu", "count_bleu"]

# The COCO caption scores add these to the fraction's two halves instead of treating zero matches apart. They
# decide the value only where a corpus has no match of some length, and there, too, we want the same number.
_NUMERATOR_EPSILON = 1e-15
_DENOMINATOR_EPSILON = 1e-9


@dataclass(frozen=True)
class BleuCounts:
    """What one photo's caption adds to the corpus; counts of several photos are summed."""

    length: int
    """Tokens of the caption."""
    reference_length: int
    """Tokens of the reference whose length is closest (the shorter one of two equally close)."""
    matches: tuple[int, ...]
    """For n = 1, 2, ...: n-grams that stand in a reference too, each at most as often as in one reference."""
    guesses: tuple[int, ...]
    """For n = 1, 2, ...: n-grams of the caption."""


def count_bleu(references: Sequence[Tokens], candidate: Tokens, max_n: int = 4) -> BleuCounts:
    """Count one caption's n-grams against its references (at least one)."""
    allowed: Counter[Ngram] = Counter()
    for reference in references:
        allowed |= count_ngrams(reference, max_n)
    matches = [0] * max_n
    for ngram, count in count_ngrams(candidate, max_n).items():
        matches[len(ngram) - 1] += min(count, allowed[ngram])
    length = len(candidate)
    closest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]
    guesses = tuple(max(0, length - n) for n in range(max_n))
    return BleuCounts(length, closest, tuple(matches), guesses)


def bleu_from_counts(counts: Iterable[BleuCounts]) -> tuple[float, ...]:
    """Return BLEU-1, BLEU-2, ... (0..1) of the photos together."""
    photos = tuple(counts)
    matches = [sum(column) for column in zip(*(photo.matches for photo in photos), strict=True)]
    guesses = [sum(column) for column in zip(*(photo.guesses for photo in photos), strict=True)]
    penalty = _brevity_penalty(
        sum(photo.length for photo in photos), sum(photo.reference_length for photo in photos)
    )
    product, scores = 1.0, []
    for n, (matched, guessed) in enumerate(zip(matches, guesses, strict=True), 1):
        product *= (matched + _NUMERATOR_EPSILON) / (guessed + _DENOMINATOR_EPSILON)
        scores.append(penalty * product ** (1 / n))
    return tuple(scores)


def corpus_bleu(
    references: Sequence[Sequence[Tokens]], candidates: Sequence[Tokens], max_n: int = 4
) -> tuple[float, ...]:
    """Return BLEU-1 to BLEU-``max_n`` (0..1).

    Args:
        references: For each photo, its reference captions as token lists, at least one.
        candidates: For each photo, the caption to score.
        max_n: Longest n-gram.
    """
    return bleu_from_counts(
        count_bleu(photo, candidate, max_n) for photo, candidate in zip(references, candidates, strict=True)
    )


def _brevity_penalty(length: int, reference_length: int) -> float:
    ratio = (length + _NUMERATOR_EPSILON) / (reference_length + _DENOMINATOR_EPSILON)
    return math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
