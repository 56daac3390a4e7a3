"""Photos with the same content: one is captioned, the others wait for it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from enum import Enum
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kiloword.runtime.journal import Journal
    from kiloword.runtime.outputs import Outcome
    from kiloword.runtime.reading import PhotoFile

_RECENT_CONTENTS = 10_000


@dataclass(frozen=True)
class Task:
    """A photo on its way to the model."""

    position: int
    """Its place in the order of the photos."""
    path: str


class Claim(Enum):
    """What is to be done for a photo whose content has no outcome yet."""

    FIRST = "caption it"
    WAITS = "another photo with this content is under way"


@dataclass(frozen=True)
class Settled:
    """What became of a content."""

    outcome: Outcome
    earlier: bool
    """Whether an earlier run did it, and not this one."""


@dataclass
class Copies:
    """Knows which contents are under way or were settled lately, so that each is captioned once.

    Its methods may be called from any thread.
    """

    journal: Journal | None
    """Asked for what is neither under way nor recent."""
    _lock: Lock = field(default_factory=Lock)
    _under_way: dict[bytes, list[tuple[Task, PhotoFile]]] = field(default_factory=dict)
    # Also bridges the time from an outcome to its being in the journal.
    _recent: OrderedDict[bytes, Outcome] = field(default_factory=OrderedDict)

    def claim(self, content: bytes, task: Task, photo: PhotoFile) -> Settled | Claim:
        """The outcome of a photo's content if it is known, else what is to be done."""
        with self._lock:
            outcome = self._recent.get(content)
            if outcome is not None:
                return Settled(outcome, earlier=False)
            if content in self._under_way:
                self._under_way[content].append((task, replace(photo, data=None)))
                return Claim.WAITS
            outcome = None if self.journal is None else self.journal.outcome_of(content)
            if outcome is not None:
                return Settled(outcome, earlier=True)
            self._under_way[content] = []
            return Claim.FIRST

    def settle(self, content: bytes, outcome: Outcome) -> list[tuple[Task, PhotoFile]]:
        """Note the outcome of a claimed content; gives the photos that waited for it."""
        with self._lock:
            self._recent[content] = outcome
            if len(self._recent) > _RECENT_CONTENTS:
                self._recent.popitem(last=False)
            return self._under_way.pop(content)

    def give_up(self, content: bytes) -> list[tuple[Task, PhotoFile]]:
        """The photo that was to be captioned for this content cannot be; gives those that waited for it."""
        with self._lock:
            return self._under_way.pop(content)
