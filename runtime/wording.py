"""Words that a caption shall not use, and words that it shall use instead.

A model says "man" of people whose sex cannot be seen, because those who wrote its training captions did.
Taking words away from the search, and giving their probability to a neutral word, needs no training.

The rules work on text, not on one spelling of it: whichever tokens would complete a banned word are ruled
out, so that a sub-word vocabulary cannot write "wo" + "man" where "woman" is banned. It cannot write longer
words that begin with the same pieces either, for what comes next is not known yet: "man" may become "mango".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kiloword.runtime.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kiloword.runtime.tokenizer import Tokenizer

PREFER_PERSON: Mapping[str, str] = {
    **dict.fromkeys(("man", "woman", "male", "female", "guy", "lady", "gentleman", "dude", "gal"), "person"),
    **dict.fromkeys(("men", "women", "males", "females", "guys", "ladies", "gentlemen", "dudes"), "people"),
    **dict.fromkeys(("boy", "girl", "schoolboy", "schoolgirl"), "child"),
    **dict.fromkeys(("boys", "girls", "schoolboys", "schoolgirls"), "children"),
    **dict.fromkeys(("father", "mother", "dad", "mom", "mum"), "parent"),
    **dict.fromkeys(("fathers", "mothers", "dads", "moms"), "parents"),
    **dict.fromkeys(("son", "daughter"), "child"),
    **dict.fromkeys(("husband", "wife", "boyfriend", "girlfriend"), "partner"),
    **dict.fromkeys(("brother", "sister"), "sibling"),
    **dict.fromkeys(("brothers", "sisters"), "siblings"),
    **dict.fromkeys(("he", "she"), "they"),
    "him": "them",
    **dict.fromkeys(("his", "her", "hers"), "their"),
    **dict.fromkeys(("himself", "herself"), "themselves"),
    **dict.fromkeys(("bride", "groom"), "person"),
    **dict.fromkeys(("cowboy", "cowgirl"), "rider"),
    **dict.fromkeys(("policeman", "policewoman"), "officer"),
    **dict.fromkeys(("fireman", "firewoman"), "firefighter"),
    **dict.fromkeys(("fisherman", "fisherwoman"), "fisher"),
    **dict.fromkeys(("businessman", "businesswoman"), "person"),
}
"""What `--prefer person` writes in the place of English words that tell a person's sex."""


_PART_OF_A_CHARACTER = "\ufffd"
_RUNS = re.compile(r"\w+")
_LAST_RUN = re.compile(r"\w+$")


@dataclass(frozen=True)
class Wording:
    """Which words a captioner may use.

    >>> Wording(avoid=("guy",), prefer={"man": "person"}).banned
    ('guy', 'man')
    """

    avoid: tuple[str, ...] = ()
    """Words that are never written; case does not matter."""
    prefer: Mapping[str, str] = field(default_factory=dict)
    """Words that are never written, each with the word that gets its probability."""

    @property
    def banned(self) -> tuple[str, ...]:
        """All words that are never written."""
        return tuple(dict.fromkeys((*self.avoid, *self.prefer)))

    def problems(self) -> list[str]:
        """What makes no sense: words that are none, and words to prefer that are banned."""
        found = [
            f"avoid_words: expected words, found {word!r}" for word in self.banned if len(word.split()) != 1
        ]
        banned = {word.casefold() for word in self.banned}
        found += [
            f"prefer: {word!r} is to be written instead of {old!r}, but it is banned, too"
            for old, word in self.prefer.items()
            if word.casefold() in banned
        ]
        return found


def read_words(item: str) -> list[str]:
    """What one `--avoid-words` means: a file with a word in each line, else words with commas between them.

    In a file, # begins a comment.

    Raises:
        ConfigError: There is no such file, by its name a file.

    >>> read_words("guy, dude")
    ['guy', 'dude']
    """
    path = Path(item)
    if not path.is_file():
        if path.suffix or len(path.parts) > 1:
            raise ConfigError(["avoid_words: there is no such file"], path=path)
        return [word.strip() for word in item.split(",") if word.strip()]
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"avoid_words: cannot be read: {error}"], path=path) from error
    return [word for line in lines if (word := line.partition("#")[0].strip())]


def read_preferences(items: Sequence[str]) -> dict[str, str]:
    """What `--prefer` means: ``person`` for `PREFER_PERSON`, or pairs such as ``lady=woman``.

    Raises:
        ConfigError: An item is neither.

    >>> read_preferences(["lady=woman"])
    {'lady': 'woman'}
    """
    found: dict[str, str] = {}
    for item in items:
        old, equals, new = (part.strip() for part in item.partition("="))
        if item == "person":
            found |= PREFER_PERSON
        elif equals and old and new:
            found[old] = new
        else:
            raise ConfigError([f"prefer: expected person or WORD=WORD, found {item!r}"])
    return found


class WordRules:
    """A `Wording` in the tokens of one vocabulary, for the search to apply at each step.

    Args:
        wording: What is wanted.
        tokenizer: Of the bundle.

    Raises:
        ConfigError: The wording contradicts itself.
    """

    def __init__(self, wording: Wording, tokenizer: Tokenizer) -> None:
        if problems := wording.problems():
            raise ConfigError(problems)
        self._words = {word.casefold() for word in wording.banned}
        self._pieces = tokenizer.pieces()
        self._whole = self._tokens_by_word()
        self._inside = self._tokens_that_go_on()
        self._always = [token for token, piece in self._pieces.items() if self._holds_banned(piece)]
        self._sequences = [
            ids
            for ids in tokenizer.spellings(sorted({form for word in wording.banned for form in _cases(word)}))
            if any(_PART_OF_A_CHARACTER in self._pieces.get(token, "") for token in ids)
        ]
        self._pools = self._make_pools(wording.prefer)

    def apply(self, rows: NDArray[np.float32], written: Sequence[Sequence[int]]) -> None:
        """Move and ban, in place.

        The probability of a word that has another one preferred to it goes to that word, where each is one
        token. Where one of them is several, its probability is not known before it is complete; it is then
        only banned, and the search finds what to say instead.

        Args:
            rows: float32 (hypotheses, vocab_size), logits.
            written: For each hypothesis the tokens that it has written so far, with the prompt.
        """
        for target, sources in self._pools:
            pooled = rows[:, [target, *sources]]
            highest = pooled.max(axis=1, keepdims=True)
            rows[:, target] = (np.log(np.exp(pooled - highest).sum(axis=1, keepdims=True)) + highest)[:, 0]
        rows[:, self._always] = -np.inf
        for row, tokens in enumerate(written):
            if banned := self._completing(tokens):
                rows[row, banned] = -np.inf

    def _completing(self, tokens: Sequence[int]) -> list[int]:
        """Tokens that would make a banned word of what these tokens have written of one."""
        beginning = self._unfinished(tokens)
        rests = {word[len(beginning) :] for word in self._words if word.startswith(beginning)}
        banned = [token for rest in rests for token in self._inside.get(rest, ())]
        # Parts of a character have no text of their own: only the usual spelling of the word finds them.
        for *start, last in self._sequences:
            if start and list(tokens[-len(start) :]) == start:
                banned.append(last)
        return banned

    def _unfinished(self, tokens: Sequence[int]) -> str:
        """The word that is being written, as far as it goes; empty between words."""
        text = ""
        for token in reversed(tokens):
            piece = self._pieces.get(token)
            if piece is None:  # a special token: nothing before it belongs to the word
                break
            text = piece + text
            if not piece.isalnum():
                break
        found = _LAST_RUN.search(text)
        return found.group().casefold() if found else ""

    def _holds_banned(self, piece: str) -> bool:
        """True for a piece with a banned word that nothing before it can change."""
        runs = [run.casefold() for run in _RUNS.findall(piece)]
        if piece[:1].isalnum():  # its first letters go on with a word: `_completing` looks at them
            runs = runs[1:]
        return piece.strip().casefold() in self._words - {piece.casefold()} or not self._words.isdisjoint(
            runs
        )

    def _tokens_by_word(self) -> dict[str, list[int]]:
        """Tokens that are a word of their own, with the space before it, by that word."""
        found: dict[str, list[int]] = {}
        for token, piece in self._pieces.items():
            if piece[:1].isspace():
                found.setdefault(piece.strip().casefold(), []).append(token)
        return found

    def _tokens_that_go_on(self) -> dict[str, list[int]]:
        """Tokens that go on with a word, by the letters that they add to it."""
        found: dict[str, list[int]] = {}
        for token, piece in self._pieces.items():
            if piece[:1].isalnum():
                found.setdefault(_RUNS.findall(piece)[0].casefold(), []).append(token)
        return found

    def _make_pools(self, prefer: Mapping[str, str]) -> list[tuple[int, list[int]]]:
        """For each preferred word its token, and the tokens whose probability it gets."""
        pools: dict[int, list[int]] = {}
        for old, new in prefer.items():
            targets = self._whole.get(new.casefold(), [])
            if len(targets) == 1:
                pools.setdefault(targets[0], []).extend(self._whole.get(old.casefold(), []))
        return [(target, sources) for target, sources in pools.items() if sources]


def _cases(word: str) -> tuple[str, str, str]:
    return word, word.lower(), word.capitalize()
