"""What captions are like, apart from being right: length, variety, and faults that one can count."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kiloword.runtime.captions import Caption
from kiloword.train.metrics.ngrams import Tokens

__all__ = ["CaptionStatistics", "describe_captions", "is_unfinished", "repeats_itself"]

_REPEATED_WORDS = 3


@dataclass(frozen=True)
class CaptionStatistics:
    """Of the captions of a data set."""

    mean_length: float
    """Tokens of a caption, counted by the scores' tokenizer."""
    shortest: int
    longest: int
    distinct_words: int
    """Different tokens in all captions together."""
    distinct_captions: int
    """Different token sequences."""
    distinct_1: float
    """Different words / all words (0..1); depends on how many captions there are.

    Source: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", arXiv
    1510.03055.
    """
    distinct_2: float
    """Different pairs of neighbours / all such pairs."""
    new_captions: float | None
    """Share (0..1) of the captions that no training caption says word for word; None: unknown."""
    unknown_words: int
    """Captions that have the tokenizer's unknown token."""
    unfinished: int
    """Captions that ran into ``max_new_tokens``: they lack the end-of-sequence token."""
    repetitive: int
    """Captions with a word twice in a row, or with three words in a row that come twice."""
    unreliable: int
    """Captions that people do not get to read."""

    def lines(self) -> list[str]:
        """For people."""
        new = "" if self.new_captions is None else f", {self.new_captions:.1%} not in the training captions"
        return [
            f"{self.mean_length:.1f} words in a caption ({self.shortest} to {self.longest}), "
            f"{self.distinct_words} different words, distinct-1 {self.distinct_1:.3f}, "
            f"distinct-2 {self.distinct_2:.3f}; {self.distinct_captions} different captions{new}",
            f"{self.unknown_words} with an unknown word, {self.unfinished} unfinished, "
            f"{self.repetitive} that repeat themselves; {self.unreliable} not reliable",
        ]


def describe_captions(
    captions: Sequence[Caption],
    tokens: Sequence[Tokens],
    *,
    eos_token_id: int,
    unknown_token_id: int | None,
    training_captions: Collection[str] | None = None,
) -> CaptionStatistics:
    """Count.

    Args:
        captions: At least one.
        tokens: The same captions, split by the scores' tokenizer.
        eos_token_id: What a finished caption ends with.
        unknown_token_id: What no caption should have.
        training_captions: As people wrote them; compared without capitals, full stops and doubled spaces.
    """
    words = [word for caption in tokens for word in caption]
    pairs = [pair for caption in tokens for pair in pairwise(caption)]
    lengths = [len(caption) for caption in tokens]
    known = None if training_captions is None else {_plain(text) for text in training_captions}
    return CaptionStatistics(
        mean_length=sum(lengths) / len(lengths),
        shortest=min(lengths),
        longest=max(lengths),
        distinct_words=len(set(words)),
        distinct_captions=len(set(map(tuple, tokens))),
        distinct_1=len(set(words)) / max(1, len(words)),
        distinct_2=len(set(pairs)) / max(1, len(pairs)),
        new_captions=(
            None if known is None else sum(_plain(one.text) not in known for one in captions) / len(captions)
        ),
        unknown_words=sum(unknown_token_id in caption.token_ids for caption in captions),
        unfinished=sum(is_unfinished(caption, eos_token_id) for caption in captions),
        repetitive=sum(repeats_itself(caption) for caption in tokens),
        unreliable=sum(not caption.reliable for caption in captions),
    )


def is_unfinished(caption: Caption, eos_token_id: int) -> bool:
    """Whether a caption lacks its end."""
    return caption.token_ids[-1:] != (eos_token_id,)


def repeats_itself(words: Tokens) -> bool:
    """Whether a word stands twice in a row, or three words in a row come twice.

    >>> repeats_itself("a man on a horse on a hill".split())
    False
    >>> repeats_itself("a dog and a dog and a cat".split())
    True
    """
    if any(one == other for one, other in pairwise(words)):
        return True
    runs = [tuple(words[at : at + _REPEATED_WORDS]) for at in range(len(words) - _REPEATED_WORDS + 1)]
    return len(set(runs)) < len(runs)


def _plain(text: str) -> str:
    return " ".join(text.lower().replace(".", " ").replace(",", " ").split())
