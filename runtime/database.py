"""One SQLite file that a single process holds: opening, locking, transactions, and errors in plain words.

WAL with `synchronous=FULL`: what was committed survives a power cut, and a process that is killed leaves a
file that the next one opens as if nothing had happened. The file is locked by the process that has it open,
so two runs cannot mix their work, and the operating system takes the lock back from a process that dies.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

from kiloword.runtime.errors import JournalError

_LOCK_WAIT_S = 0.5
_FETCH_ROWS = 500

Row = tuple[Any, ...]


class Database:
    """A SQLite file, open and locked.

    It may be used from several threads, one statement at a time. Statements open a transaction by themselves;
    `commit` ends it.

    Args:
        path: The file; made if it is not there.
        schema: Statements that make the tables, run when the file is new.
        application_id: Marks the file as ours (SQLite's `application_id`, 1 .. 2**31 - 1).
        version: Version of the schema; a file with another one is refused.
        at_opening: Statements that make indexes and temporary tables, run at each opening.

    Raises:
        JournalError: The file is in use, no file of ours, of another version, or cannot be written.
    """

    def __init__(
        self, path: str, *, schema: str, application_id: int, version: int, at_opening: str = ""
    ) -> None:
        self.path = path
        self._lock = RLock()
        self._dirty = False
        with self._plain_errors():
            self._connection = sqlite3.connect(
                path, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False
            )
        try:
            with self._plain_errors():
                self._take()
                self._check_or_make(schema, application_id, version)
                self._connection.executescript(at_opening)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def run(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Change something.

        Returns:
            The id of the last row that was inserted.
        """
        with self._lock, self._plain_errors():
            self._begin()
            return self._connection.execute(statement, values).lastrowid or 0

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Change something.

        Returns:
            How many rows were changed.
        """
        with self._lock, self._plain_errors():
            self._begin()
            return self._connection.execute(statement, values).rowcount

    def run_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Make the same change with many values."""
        with self._lock, self._plain_errors():
            self._begin()
            self._connection.executemany(statement, rows)

    def one(self, query: str, values: Sequence[Any] = ()) -> Row | None:
        """The first row that a query gives, if any."""
        with self._lock, self._plain_errors():
            row: Row | None = self._connection.execute(query, values).fetchone()
            return row

    def rows(self, query: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        """All rows that a query gives, a few hundred in memory at a time."""
        with self._lock, self._plain_errors():
            cursor = self._connection.execute(query, values)
        while True:
            with self._lock, self._plain_errors():
                rows = cursor.fetchmany(_FETCH_ROWS)
            if not rows:
                return
            yield from rows

    def commit(self) -> None:
        """Make everything so far survive a power cut."""
        with self._lock, self._plain_errors():
            if self._dirty:
                self._connection.execute("COMMIT")
                self._dirty = False

    def close(self) -> None:
        """Let go of the file; what was not committed is lost."""
        with self._lock:
            self._connection.close()

    def _begin(self) -> None:
        if not self._dirty:
            self._connection.execute("BEGIN IMMEDIATE")
            self._dirty = True

    def _take(self) -> None:
        # Exclusive before anything else is touched: then SQLite needs no shared memory beside the file, which
        # network drives cannot give.
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("COMMIT")

    def _check_or_make(self, schema: str, application_id: int, version: int) -> None:
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            self._connection.executescript(
                f"BEGIN; {schema}; PRAGMA application_id = {application_id}; "
                f"PRAGMA user_version = {version}; COMMIT;"
            )
            return
        (found_id,) = self._connection.execute("PRAGMA application_id").fetchone()
        (found_version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found_id != application_id:
            raise _not_ours(self.path, "a database of another program")
        if found_version != version:
            raise JournalError(
                "is a journal of another version",
                path=self.path,
                expected=str(version),
                found=str(found_version),
                hint="another file with --state FILE",
            )

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """Turn SQLite's exceptions into ours; a transaction that fails is rolled back, earlier ones stay."""
        try:
            yield
        except sqlite3.Error as error:
            self._dirty = False
            if hasattr(self, "_connection"):
                _roll_back(self._connection)
            raise _explained(self.path, error) from error


def _roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:  # the disk is gone; opening the file the next time rolls back
        pass


def _explained(path: str, error: sqlite3.Error) -> JournalError:
    text = str(error)
    if "locked" in text:
        return JournalError(
            "another run is using this journal",
            path=path,
            hint="wait until it ends, or give this run a journal of its own with --state FILE",
        )
    if "full" in text:
        return JournalError(
            "the disk is full; all that was done until now is kept",
            path=path,
            hint="make room and run the same command again",
        )
    if "not a database" in text:
        return _not_ours(path, "something else")
    if "unable to open" in text or "readonly" in text:
        return JournalError(
            "the journal cannot be written",
            path=path,
            found=_why_not_writable(path) or text,
            hint="name another place with --state FILE",
        )
    if "malformed" in text:
        return JournalError(
            "the journal is damaged", path=path, found=text, hint="move it away and run the command again"
        )
    return JournalError("the journal cannot be used", path=path, found=text, hint="--state FILE")


def _not_ours(path: str, found: str) -> JournalError:
    return JournalError(
        "is no journal",
        path=path,
        expected="a file that kiloword made, or none",
        found=found,
        hint="another file with --state FILE",
    )


def _why_not_writable(path: str) -> str | None:
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        return f"no folder {folder}"
    if os.path.isdir(path):
        return "a folder"
    return None
