"""Notices that a folder is gone that is being captioned: its disk pulled out, its rights taken, or deleted.

Each photo in it then fails to open, which says nothing of the photos and would fill the output with errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kiloword.runtime.errors import KilowordError

if TYPE_CHECKING:
    from kiloword.runtime.results import Done


@dataclass(frozen=True)
class Roots:
    """The folders that a run is about, as they were when it began.

    Args:
        devices: Each folder with the number of the device that it lay on. When a disk is taken away, its
            folder may still be there, empty, and then lies on another device.
    """

    devices: dict[str, int]

    @classmethod
    def of(cls, paths: Iterable[str]) -> Roots:
        """The folders among some paths."""
        return cls({path: os.stat(path).st_dev for path in paths if os.path.isdir(path)})

    def loss(self) -> KilowordError | None:
        """What is to be said of the first folder that is gone; None if all are there."""
        for folder, device in self.devices.items():
            try:
                found = None if os.stat(folder).st_dev == device else "another disk in its place"
                os.scandir(folder).close()
            except OSError as error:
                found = error.strerror or str(error)
            if found is not None:
                return KilowordError(
                    "this folder cannot be read any more; all that was done until now is kept",
                    path=folder,
                    found=found,
                    hint="bring it back and run the same command again",
                )
        return None


@dataclass
class RootWatch:
    """Looks after the folders whenever something could not be opened.

    Args:
        roots: The folders.
    """

    roots: Roots
    lost: KilowordError | None = None
    """What is to be said, once a folder is gone."""

    def without_lost(self, results: Sequence[Done]) -> list[Done]:
        """Results without those that only say that a folder is gone."""
        if self.lost is None and any(_unopened(done) for done in results):
            self.lost = self.roots.loss()
        return list(results) if self.lost is None else [done for done in results if not _unopened(done)]


def _unopened(done: Done) -> bool:
    """Whether nothing is known of a photo's content: also a folder that cannot be listed."""
    return done.outcome.error is not None and done.content is None
