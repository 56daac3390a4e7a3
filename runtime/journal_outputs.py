"""What was written where: the part of the journal by which a run knows its own texts and can take them back.

An output is planned before it is written and marked afterwards. A process that dies in between leaves a plan,
and the hash of what was to be written tells whether it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kiloword.runtime.database import Database, Row

OutputState = Literal["planned", "written", "failed", "undone"]

_COLUMNS = "id, run, photo, target, kind, text, content_before, content_after, undo, state"


@dataclass(frozen=True)
class RecordedOutput:
    """A text that was written, or was about to be, to a file beside or inside a photo."""

    id: int
    run: int
    """The run that wrote it."""
    photo: str
    """The photo that it describes; an absolute path."""
    target: str
    """The file that was written; the photo itself where the text was embedded."""
    kind: str
    """What sort of output it is, such as ``txt``."""
    text: str
    """The caption that was written."""
    content_before: bytes | None
    """Hash of the target's content before (`hashing.content_hash`); None if there was no such file."""
    content_after: bytes
    """Hash of the target's content after."""
    undo: bytes | None
    """What else is needed to take it back; what it means is up to ``kind``."""
    state: OutputState
    """``planned`` may mean written: the process died before it could say so. Compare ``content_after``."""


class JournalOutputs:
    """The outputs in a journal. Nothing is durable before `Journal.commit`.

    Args:
        database: The journal's.
        path_key: How the journal keeps a path.
        path_of: The reverse of it.
    """

    def __init__(
        self, database: Database, path_key: Callable[[str], bytes], path_of: Callable[[bytes], str]
    ) -> None:
        self._database = database
        self._path_key = path_key
        self._path_of = path_of
        self.run = 0
        """The run that new outputs belong to."""

    def plan(
        self,
        photo: str,
        target: str,
        kind: str,
        text: str,
        *,
        before: bytes | None,
        after: bytes,
        undo: bytes | None = None,
    ) -> int:
        """Say what will be written; commit before writing it.

        Args:
            photo: The photo that the text describes.
            target: The file to be written.
            kind: What sort of output it is.
            text: The caption.
            before: Hash of the target's content now; None if it does not exist.
            after: Hash of what its content will be.
            undo: What else will be needed to take it back.

        Returns:
            The output's id.
        """
        statement = (
            "INSERT INTO outputs (run, photo, target, kind, text, content_before, content_after, undo, state)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'planned')"
        )
        keys = (self._path_key(photo), self._path_key(target))
        return self._database.run(statement, (self.run, *keys, kind, text, before, after, undo))

    def mark(self, output_id: int, state: OutputState) -> None:
        """Say what became of an output."""
        self._database.run("UPDATE outputs SET state = ? WHERE id = ?", (state, output_id))

    def latest(self, photo: str, kind: str) -> RecordedOutput | None:
        """The last output of a kind for a photo, whatever its state."""
        query = f"SELECT {_COLUMNS} FROM outputs WHERE photo = ? AND kind = ? ORDER BY id DESC LIMIT 1"
        found = self._database.one(query, (self._path_key(photo), kind))
        return None if found is None else self._output(found)

    def wrote(self, photo: str, target: str, content: bytes, photo_content: bytes | None = None) -> bool:
        """Whether a file with this content is what we wrote for this photo, and so nobody else's text.

        It is, if we wrote it there for the photo at this path: of two photos with one sidecar (`cat.jpg` and
        `cat.png`: `cat.txt`) the first one has it. It is, too, if we wrote it for a photo with this content
        elsewhere: then somebody moved the photo, and its sidecar along with it.
        """
        query = (
            "SELECT 1 FROM outputs LEFT JOIN files ON files.path = outputs.photo"
            " WHERE content_after = ? AND state IN ('planned', 'written')"
            " AND ((target = ? AND photo = ?) OR (target != ? AND files.content = ?)) LIMIT 1"
        )
        target_key, photo_key = self._path_key(target), self._path_key(photo)
        values = (content, target_key, photo_key, target_key, photo_content)
        return self._database.one(query, values) is not None

    def of_run(self, run: int) -> Iterator[RecordedOutput]:
        """What a run wrote or was about to write, the last one first: the order to take it back in."""
        query = (
            f"SELECT {_COLUMNS} FROM outputs WHERE run = ? AND state IN ('planned', 'written')"
            " ORDER BY id DESC"
        )
        for row in self._database.rows(query, (run,)):
            yield self._output(row)

    def unfinished(self) -> Iterator[RecordedOutput]:
        """What killed runs were writing or about to write."""
        for row in self._database.rows(f"SELECT {_COLUMNS} FROM outputs WHERE state = 'planned'"):
            yield self._output(row)

    def runs(self) -> list[int]:
        """Runs of which something may be taken back, the newest first."""
        query = "SELECT DISTINCT run FROM outputs WHERE state IN ('planned', 'written') ORDER BY run DESC"
        return [run for (run,) in self._database.rows(query)]

    def _output(self, row: Row) -> RecordedOutput:
        number, run, photo, target, *rest = row
        return RecordedOutput(number, run, self._path_of(photo), self._path_of(target), *rest)
