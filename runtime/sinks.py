"""Where a caption goes besides the output: files beside a photo, or the photo itself.

A sink says what it would write before it writes, so that the journal knows of it first. It never replaces
what somebody else wrote.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kiloword.runtime.hashing import content_hash
from kiloword.runtime.outputs import replace_file, write_new
from kiloword.runtime.splices import make_splice

if TYPE_CHECKING:
    from kiloword.runtime.captioner import Caption

Ours = Callable[[str, bytes], bool]
"""Tells of a file and the hash of its content whether we wrote just that there, for the same photo."""


@dataclass(frozen=True)
class PlannedWrite:
    """What a sink is about to do."""

    target: str
    """The file to be written."""
    before: bytes | None
    """Hash of its content now (`content_hash`); None if it does not exist."""
    after: bytes
    """Hash of its content then."""
    write: Callable[[], None]
    """Does it; raises `OSError`."""
    undo: bytes | None = None
    """What will be needed to take it back, besides the hashes; its meaning is the sink's."""


@dataclass(frozen=True)
class LeftAlone:
    """A file that was not written because somebody else's text is in it."""

    reason: str
    """One line with the file's path."""


class Sink(Protocol):
    """One kind of place for captions."""

    @property
    def kind(self) -> str:
        """What the journal calls it, such as ``txt``."""

    def plan(self, photo: str, caption: Caption, ours: Ours) -> PlannedWrite | LeftAlone | None:
        """Say what is to be written for a photo; None if it is there already.

        Raises:
            OSError: What is there cannot be read.
        """


class TextSidecars:
    """A txt file beside each photo (`cat.jpg`: `cat.txt`), as training sets have it."""

    kind = "txt"

    def plan(self, photo: str, caption: Caption, ours: Ours) -> PlannedWrite | LeftAlone | None:
        """Plan the sidecar of a photo; an existing text is replaced if it is empty or ours."""
        sidecar = os.path.splitext(photo)[0] + ".txt"
        content = f"{caption.text}\n".encode()
        after = content_hash(content)
        if not os.path.lexists(sidecar):
            return PlannedWrite(sidecar, None, after, lambda: write_new(Path(sidecar), content))
        found = Path(sidecar).read_bytes() if os.path.isfile(sidecar) else None
        if found is not None and found.strip() == content.strip():
            return None
        before = None if found is None else content_hash(found)
        if before is None or not ((found is not None and not found.strip()) or ours(sidecar, before)):
            return LeftAlone(f"{sidecar}: left as it was: it holds a text that is not this caption")
        undo = None if found is None else make_splice(found, content)
        return PlannedWrite(sidecar, before, after, lambda: replace_file(Path(sidecar), content), undo)
