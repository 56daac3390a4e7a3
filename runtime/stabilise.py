"""Words that stay while the scene does: which of the captions of a moving picture is worth showing.

A captioner that sees the same dog in the next frame says "a dog running through grass" where it said "a dog
runs in the grass". For a reader that flickers, and a voice never ends. So the words on show change at once
when the scene is cut, and otherwise only when captions that say something else agree with each other.
"""

from __future__ import annotations

import re

_AGREEING_IF_OTHER = 2
"""Captions in a row that must agree when they say something else than what is shown."""
_AGREEING_IF_SIMILAR = 3
"""The same, when they share most of their words with what is shown."""
_SIMILAR = 0.5

_WORD = re.compile(r"\w+")
_STOP_WORDS = frozenset(
    (
        *("a", "an", "the", "this", "that", "there", "some", "its", "it", "his", "her", "their"),
        *("is", "are", "was", "be", "being", "and", "or", "while", "as"),
        *("of", "in", "on", "at", "by", "to", "with", "from", "for", "through", "into", "onto", "over"),
        *("up", "down", "out", "probably"),  # how sure it is changes more often than what it is
    )
)
_LONGEST_WORD = 12  # what is longer and alone is a sentence of a language that writes no spaces


def content_words(text: str) -> frozenset[str]:
    """The words that carry the meaning, cut to their stems; what wobbles is mostly the rest.

    >>> sorted(content_words("The dogs are running through a field."))
    ['dog', 'field', 'run']
    """
    words = _WORD.findall(text.lower())
    if any(len(word) > _LONGEST_WORD for word in words) and len(words) <= 2:
        joined = "".join(words)
        return frozenset(joined[start : start + 2] for start in range(len(joined) - 1))
    return frozenset(_stem(word) for word in words if word not in _STOP_WORDS)


def _stem(word: str) -> str:
    """Crude on purpose: it only has to make the forms of one word equal, not to be a word."""
    for ending in ("ing", "es", "s", "e"):
        if len(word) > len(ending) + 2 and word.endswith(ending):
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 2 and word[-1] == word[-2] else word


def similarity(one: str, other: str) -> float:
    """How much two captions have in common, 0..1: twice the shared content words over all of them.

    >>> round(similarity("a dog runs on grass", "a dog running on the grass"), 2)
    1.0

    Source: Dice, "Measures of the amount of ecologic association between species", Ecology 26 (1945).
    """
    first, second = content_words(one), content_words(other)
    if not first and not second:
        return 1.0
    return 2 * len(first & second) / (len(first) + len(second))


class Stabiliser:
    """Decides which words are shown.

    Attributes:
        text: The words on show; None before the first.
        since_s: When in the source's own time those words became true: the frame of the first caption that
            said so, even if it had to be confirmed first.
    """

    def __init__(self) -> None:
        self.text: str | None = None
        self.since_s = 0.0
        self._candidate: str | None = None
        self._candidate_since_s = 0.0
        self._agreeing = 0

    @property
    def unsure(self) -> bool:
        """Whether the last caption said something else than what is shown: another one would settle it."""
        return self._candidate is not None

    def update(self, text: str, *, cut: bool, at_s: float) -> bool:
        """Take the next caption.

        Args:
            text: What it says.
            cut: Whether the scene was cut since the caption before.
            at_s: The frame's place in the source's own time.

        Returns:
            Whether the words on show changed.
        """
        if self.text is not None and content_words(text) == content_words(self.text):
            self._candidate = None
            return False
        self._count(text, at_s)
        if not (self.text is None or cut or self._agreeing >= self._needed(text)):
            return False
        self.since_s = at_s if self.text is None or cut else self._candidate_since_s
        self.text, self._candidate = text, None
        return True

    def _count(self, text: str, at_s: float) -> None:
        if self._candidate is not None and similarity(text, self._candidate) >= _SIMILAR:
            self._agreeing += 1
        else:
            self._agreeing, self._candidate_since_s = 1, at_s
        self._candidate = text

    def _needed(self, text: str) -> int:
        similar = self.text is not None and similarity(text, self.text) >= _SIMILAR
        return _AGREEING_IF_SIMILAR if similar else _AGREEING_IF_OTHER
