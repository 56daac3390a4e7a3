"""Guesses at the tokens that follow, for the decoder to check several of them in one call.

Captions repeat each other: after "a man in a red" mostly comes "shirt", and then "is". A table of what
followed what in other captions guesses that, and a call that reads six tokens takes 1.3 times as long as one
that reads one, for the weights are read once. What the decoder would have written itself is kept, the rest is
thrown away: the captions are the same.

Source: Stern et al., arXiv:1811.03115 (greedy search checks several tokens at once); Yang et al.,
arXiv:2304.04487 (guesses from what was written elsewhere).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeAlias

import numpy as np

from kiloword.runtime.draft_spec import DraftSpec
from kiloword.runtime.errors import BundleError
from kiloword.runtime.manifest import TokenSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kiloword.runtime.sessions import Tensors

    Floats: TypeAlias = NDArray[np.float32]
    Ids: TypeAlias = NDArray[np.int64]

ORDER = 4
"""Most tokens that a guess looks back at; three were 2 % less often right, five no more often."""
_FEWEST = 2
"""A sequence of two tokens or more must have been seen that often: what was seen once comes by chance."""
_NONE = -1


class CheckingDecoder(Protocol):
    """A decoder that can check guesses; `runtime.sessions.DecoderSession` says what each method does."""

    def read(
        self, input_ids: Ids, beam_rows: Ids, context: Tensors, state: Tensors
    ) -> tuple[Floats, Tensors]:
        """Read tokens and predict what follows each of them."""
        ...

    def without_last(self, state: Tensors, count: int) -> Tensors:
        """The state of before the last tokens were read."""
        ...


class DraftTable:
    """What mostly follows the last tokens.

    Args:
        following: A token for each sequence of 1 to ``order`` tokens that it follows.
        order: Length of the longest of them.
    """

    def __init__(self, following: dict[tuple[int, ...], int], order: int) -> None:
        self._following = following
        self._order = order

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._following)

    def next(self, tokens: Sequence[int]) -> int | None:
        """What the longest sequence that ends these tokens is followed by; None where there is none."""
        for length in range(min(self._order, len(tokens)), 0, -1):
            following = self._following.get(tuple(tokens[-length:]))
            if following is not None:
                return following
        return None

    def holds_ids_below(self, vocab_size: int) -> bool:
        """Whether all that it guesses are tokens of a vocabulary of this size."""
        return all(0 <= token < vocab_size for token in self._following.values())

    @classmethod
    def counted(cls, captions: Iterable[Sequence[int]], order: int = ORDER) -> DraftTable:
        """Count what follows what in captions; what a shorter sequence says as well is left out.

        Args:
            captions: Token ids of each, prompt included, as the decoder wrote them.
            order: Most tokens to look back at.

        >>> table = DraftTable.counted([[1, 5, 6, 2], [1, 5, 6, 2], [1, 7, 6, 5, 2]])
        >>> table.next([1, 7, 6]), table.next([8])
        (2, None)
        """
        table = cls({}, order)
        for length, counts in enumerate(_count(captions, order), 1):
            for last, followers in counts.items():
                token, times = min(followers.items(), key=lambda item: (-item[1], item[0]))
                if (length == 1 or times >= _FEWEST) and table.next(last[1:]) != token:
                    table._following[last] = token
        return table

    @classmethod
    def load(cls, path: Path) -> DraftTable:
        """Read a table that `save` wrote.

        Raises:
            BundleError: The file holds something else.
        """
        expected = "int32 (entries, order + 1)"
        try:
            entries = np.load(path, allow_pickle=False)
            if entries.dtype != np.int32 or entries.ndim != 2 or entries.shape[1] < 2:
                raise ValueError(f"{entries.dtype} {entries.shape}")
        except Exception as error:  # numpy raises anything at a damaged header, MemoryError too
            raise BundleError("holds no draft", path=path, expected=expected, found=str(error)) from error
        following = {
            tuple(token for token in last if token != _NONE): token for *last, token in entries.tolist()
        }
        return cls(following, entries.shape[1] - 1)

    def save(self, file: BinaryIO) -> None:
        """Write int32 (entries, order + 1): the last tokens, -1 where there are fewer, and the next."""
        entries = [
            [*[_NONE] * (self._order - len(last)), *last, token]
            for last, token in sorted(self._following.items())
        ]
        np.save(file, np.array(entries, dtype=np.int32).reshape(-1, self._order + 1))


class Drafter:
    """A bundle's table, read when it is first needed, and the decoder that checks what it guesses.

    Args:
        decoder: What checks.
        directory: Of the bundle, whose files were checked.
        spec: What the manifest says.
        tokens: Its vocabulary.
    """

    def __init__(self, decoder: CheckingDecoder, directory: Path, spec: DraftSpec, tokens: TokenSpec) -> None:
        self.decoder = decoder
        self._path = directory / spec.file
        self._most = spec.most
        self._tokens = tokens

    def checked_by(self, decoder: CheckingDecoder) -> Drafter:
        """The same guesses for another decoder, such as one that is listened to."""
        other = copy(self)
        other.decoder = decoder
        return other

    def guess(self, tokens: Sequence[int], most: int) -> list[int]:
        """Tokens that will probably follow.

        Args:
            tokens: What was written so far, prompt included.
            most: No more than so many.

        Returns:
            None where nothing like it was seen before, and never the end, behind which nothing is to be read.

        Raises:
            BundleError: The table is not what it should be.
        """
        written = list(tokens)
        for _ in range(min(most, self._most)):
            token = self._table.next(written)
            if token is None or token == self._tokens.eos_token_id:
                break
            written.append(token)
        return written[len(tokens) :]

    @cached_property
    def _table(self) -> DraftTable:
        table = DraftTable.load(self._path)
        if not table.holds_ids_below(self._tokens.vocab_size):
            expected = f"token ids below {self._tokens.vocab_size}, the size of the vocabulary"
            raise BundleError("holds a draft for other tokens", path=self._path, expected=expected)
        return table


def _count(captions: Iterable[Sequence[int]], order: int) -> list[dict[tuple[int, ...], Counter[int]]]:
    """What follows each sequence of 1, 2, ... ``order`` tokens, and how often."""
    found: list[dict[tuple[int, ...], Counter[int]]] = [defaultdict(Counter) for _ in range(order)]
    for caption in captions:
        for place in range(1, len(caption)):
            for length in range(1, min(order, place) + 1):
                found[length - 1][tuple(caption[place - length : place])][caption[place]] += 1
    return found
