"""Counting the n-grams of a token list, which BLEU and CIDEr both start from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

__all__ = ["Ngram", "Tokens", "count_ngrams"]

Tokens = Sequence[str]
Ngram = tuple[str, ...]


def count_ngrams(tokens: Tokens, max_n: int) -> Counter[Ngram]:
    """Count all n-grams of 1 to ``max_n`` tokens.

    >>> count_ngrams(["a", "b", "a"], 2)
    Counter({('a',): 2, ('b',): 1, ('a', 'b'): 1, ('b', 'a'): 1})
    """
    words = tuple(tokens)
    counts: Counter[Ngram] = Counter()
    for n in range(1, max_n + 1):
        counts.update(words[start : start + n] for start in range(len(words) - n + 1))
    return counts
