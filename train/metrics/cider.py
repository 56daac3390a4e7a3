"""CIDEr-D: agreement with what most people wrote, rare words counting more.

Source: Vedantam, Zitnick, Parikh, "CIDEr: Consensus-based Image Description Evaluation", arXiv 1411.5726, the
variant D against gaming: clipped n-gram weights and a Gaussian penalty on the difference in length.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kiloword.train.metrics.ngrams import Ngram, Tokens, count_ngrams

__all__ = ["CiderScorer", "corpus_cider"]

_MAX_N = 4
_SCALE = 10.0

_Vector = dict[Ngram, float]


class CiderScorer:
    """Scores captions of a fixed set of photos; the references are counted once.

    Args:
        references: For each photo, its reference captions as token lists, at least one. They also say in how
            many photos an n-gram occurs, so a score depends on the whole set.
        sigma: Width of the length penalty, in tokens.
    """

    def __init__(self, references: Sequence[Sequence[Tokens]], *, sigma: float = 6.0) -> None:
        counted = [[count_ngrams(reference, _MAX_N) for reference in photo] for photo in references]
        photos_with: Counter[Ngram] = Counter()
        for photo in counted:
            photos_with.update(set().union(*photo))
        self._log_photos = math.log(len(references)) if references else 0.0
        self._rarity = {ngram: self._log_photos - math.log(count) for ngram, count in photos_with.items()}
        self._references = [[self._vector_and_norms(counts) for counts in photo] for photo in counted]
        self._pair_counts = [[_pairs(reference) for reference in photo] for photo in references]
        self._sigma = sigma

    def score(self, photo: int, candidate: Tokens) -> float:
        """Return CIDEr-D (0..10) of a caption of the photo with that index."""
        weights = self._weights(count_ngrams(candidate, _MAX_N))
        norms = _norms(weights)
        pairs = _pairs(candidate)
        total = 0.0
        for (vector, scales), reference_pairs in zip(
            self._references[photo], self._pair_counts[photo], strict=True
        ):
            penalty = math.exp(-((pairs - reference_pairs) ** 2) / (2 * self._sigma**2))
            total += penalty * _clipped_cosines(weights, norms, vector, scales)
        return _SCALE * total / _MAX_N / len(self._references[photo])

    def scores(
        self, candidates: Sequence[Tokens], photos: Sequence[int] | None = None
    ) -> npt.NDArray[np.float64]:
        """Return CIDEr-D (0..10) of many captions.

        Args:
            candidates: Captions as token lists.
            photos: For each caption the index of its photo, so that several samples of one photo can be
                scored; without it, caption i is of photo i, and there must be one for each.
        """
        indices = range(len(self._references)) if photos is None else photos
        values = [self.score(photo, candidate) for photo, candidate in zip(indices, candidates, strict=True)]
        return np.array(values, dtype=np.float64)

    def _weights(self, counts: Counter[Ngram]) -> _Vector:
        # An n-gram that no reference has is as rare as one can be.
        return {ngram: count * self._rarity.get(ngram, self._log_photos) for ngram, count in counts.items()}

    def _vector_and_norms(self, counts: Counter[Ngram]) -> tuple[_Vector, list[float]]:
        weights = self._weights(counts)
        return weights, _norms(weights)


def corpus_cider(references: Sequence[Sequence[Tokens]], candidates: Sequence[Tokens]) -> float:
    """Return the mean CIDEr-D (0..10) over the photos; arguments as in ``corpus_bleu``."""
    return float(CiderScorer(references).scores(candidates).mean())


def _pairs(tokens: Tokens) -> int:
    # The COCO caption scores measure length in bigrams; that differs from tokens only for an empty caption.
    return max(0, len(tokens) - 1)


def _norms(weights: _Vector) -> list[float]:
    """Return the Euclidean norm of the weights of each n-gram length."""
    squares = [0.0] * _MAX_N
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    return [math.sqrt(square) for square in squares]


def _clipped_cosines(
    weights: _Vector, norms: Sequence[float], reference: _Vector, reference_norms: Sequence[float]
) -> float:
    """Add up the cosines of each n-gram length, a caption's weight counting at most like the reference's."""
    products = [0.0] * _MAX_N
    for ngram, weight in weights.items():
        if (other := reference.get(ngram)) is not None:
            products[len(ngram) - 1] += min(weight, other) * other
    scales = zip(products, norms, reference_norms, strict=True)
    return sum(product / (norm * other) for product, norm, other in scales if norm and other)
