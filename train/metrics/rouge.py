"""ROUGE-L: how long a subsequence a caption shares with its references.

Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004; beta 1.2, and the best precision
and the best recall over the references, as in the COCO caption scores (Chen et al., arXiv 1504.00325).
"""

from __future__ import annotations

from collections.abc import Sequence

from kiloword.train.metrics.ngrams import Tokens

__all__ = ["corpus_rouge_l", "rouge_l"]

_BETA = 1.2


def rouge_l(references: Sequence[Tokens], candidate: Tokens) -> float:
    """Return ROUGE-L (0..1) of one caption against its references (at least one)."""
    common = [_common_subsequence(reference, candidate) for reference in references]
    if not max(common):
        return 0.0
    precision = max(common) / len(candidate)
    # An empty reference shares nothing; max() keeps the division defined.
    recall = max(
        shared / max(1, len(reference)) for shared, reference in zip(common, references, strict=True)
    )
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def corpus_rouge_l(references: Sequence[Sequence[Tokens]], candidates: Sequence[Tokens]) -> float:
    """Return the mean ROUGE-L (0..1) over the photos; arguments as in ``corpus_bleu``."""
    scores = [rouge_l(photo, candidate) for photo, candidate in zip(references, candidates, strict=True)]
    return sum(scores) / len(scores)


def _common_subsequence(first: Tokens, second: Tokens) -> int:
    """Return the length of the longest common subsequence, one row of the usual table at a time."""
    row = [0] * (len(second) + 1)
    for token in first:
        diagonal = 0
        for column, other in enumerate(second, 1):
            above = row[column]
            row[column] = diagonal + 1 if token == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]
