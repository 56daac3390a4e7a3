"""What the pipeline gives for each photo, and how results come back in order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kiloword.runtime.outputs import CaptionRow, Outcome

if TYPE_CHECKING:
    import os


@dataclass(frozen=True)
class Done:
    """What became of one photo."""

    position: int
    """Its place in the order of the photos, without gaps."""
    path: str
    outcome: Outcome
    content: bytes | None = None
    """Hash of its content; None where it could not be read."""
    stat: os.stat_result | None = None
    """The file's size and time when it had that content."""
    fresh: bool = False
    """Made just now; else a copy of one that was, or known to the journal."""
    known: bool = False
    """Told by the journal without reading the file."""
    earlier: bool = False
    """Told by the journal, with the file read or not: an earlier run did it."""

    def row(self) -> CaptionRow:
        """As writers take it."""
        return row_of(self.path, self.outcome)


def row_of(path: str, outcome: Outcome) -> CaptionRow:
    """The row of a photo with this outcome; an error gets the path that it is shown with."""
    if outcome.caption is not None:
        return CaptionRow(path, outcome.caption)
    return CaptionRow(path, error=f"{path}: {outcome.error}")


class InOrder:
    """Puts results back in order."""

    def __init__(self) -> None:
        self.position = 0
        """Of the first one that is missing."""
        self._early: dict[int, Done] = {}

    def take(self, results: Iterable[Done]) -> list[Done]:
        """Take results in any order; gives those that have no missing one before them."""
        self._early.update((done.position, done) for done in results)
        ordered = []
        while self.position in self._early:
            ordered.append(self._early.pop(self.position))
            self.position += 1
        return ordered

    def rest(self) -> list[Done]:
        """At an early end: what is there behind the gaps."""
        return [self._early[position] for position in sorted(self._early)]
