"""What was done to which photo: the journal that lets a run go on where another one stopped.

A photo is known by its content, so it may be moved or renamed; whether a file is still the one that was read
is told by its size and time, without reading it. A caption belongs to a content and to the work that made it:
a bundle and the settings of the search. All of it is in one SQLite file (`runtime.database`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kiloword.runtime.database import Database
from kiloword.runtime.hashing import content_hash
from kiloword.runtime.journal_outputs import JournalOutputs
from kiloword.runtime.journal_schema import APPLICATION_ID, INDEXES, SCHEMA, TEMPORARY, VERSION
from kiloword.runtime.outputs import Outcome

if TYPE_CHECKING:
    from kiloword.runtime.captions import Caption
    from kiloword.runtime.manifest import Manifest

JOURNAL_SUFFIX = ".journal"
FOLDER_JOURNAL = ".kiloword.journal"
"""The journal's name in a folder whose photos get sidecars and no other output."""


# A file that changes twice within one tick of its file system's clock has one time for two contents. FAT has
# the longest ticks, two seconds: a younger file's time is not relied on (as git does with its index).
_CLOCK_TICK_NS = 2_000_000_000

# Not kept: they take more room than all the rest and nobody asks for them of a folder.
_CAPTION_FIELDS_LEFT_OUT = ("text", "confidence", "token_ids", "token_logprobs", "words", "attention")
# What of a manifest does not change a caption; the search's defaults are counted with the settings.
_MANIFEST_WITHOUT_EFFECT = ("name", "generation", "files", "provenance", "report")
_FILES_WITHOUT_EFFECT = ("CARD.md",)

_CAPTIONED = Outcome()
_COUNTS = "work = ? AND run >= ? AND (error IS NULL OR run >= ?)"


@dataclass(frozen=True)
class Work:
    """What turns a photo into a caption: captions of other work are outdated."""

    bundle: str
    """SHA-256 over all of a bundle that a caption depends on, hexadecimal."""
    bundle_name: str
    settings: str
    """The settings of the search, as JSON."""


@dataclass(frozen=True)
class Run:
    """One start of the program."""

    id: int
    bundle_name: str
    version: str
    """The program's."""
    started: float
    """Seconds since 1970."""
    seconds: float
    """How long it took, or until when it was last heard of."""
    captioned: int
    failed: int
    ended: bool
    """False for a run that was interrupted."""


@dataclass(frozen=True)
class Listed:
    """A photo of this run with what is known of it."""

    path: str
    """As the user would write it."""
    outcome: Outcome | None
    """None where it is still to be done."""
    content: bytes | None = None
    """Hash of its content; None where it could not be read."""


def work_of(manifest: Manifest, settings: Mapping[str, Any]) -> Work:
    """Describe the work of a bundle with certain settings, such as `Captioner.settings_that_count` gives.

    A bundle is known by what can change a caption: its graphs, its tokenizer and what the manifest says of
    them, and not by its name, its card or its report.
    """
    from kiloword.runtime.captions import Caption

    facts = dataclasses.asdict(manifest)
    files = {name: record["sha256"] for name, record in facts["files"].items()}
    files = {name: digest for name, digest in files.items() if name not in _FILES_WITHOUT_EFFECT}
    facts = {name: fact for name, fact in facts.items() if name not in _MANIFEST_WITHOUT_EFFECT}
    # With another version of this program a caption may have other fields: then it is made again.
    facts |= {"files": files, "caption_fields": sorted(field.name for field in dataclasses.fields(Caption))}
    digest = hashlib.sha256(_as_json(facts).encode()).hexdigest()
    return Work(digest, manifest.name, _as_json(settings))


def journal_of(path: str) -> str:
    """Where the journal of an output file or of a folder with sidecars lies.

    >>> journal_of("captions.jsonl")
    'captions.jsonl.journal'
    """
    return os.path.join(path, FOLDER_JOURNAL) if os.path.isdir(path) else path + JOURNAL_SUFFIX


class Journal:
    """An open journal, for one process at a time and any number of its threads.

    Args:
        path: The SQLite file; made if it is not there.

    Raises:
        JournalError: It is in use by another run, is no journal, or cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._database = Database(
            path,
            schema=SCHEMA,
            application_id=APPLICATION_ID,
            version=VERSION,
            at_opening=f"{INDEXES};{TEMPORARY}",
        )
        self._folder = os.path.join(os.path.dirname(os.path.abspath(path)), "")
        self._last_key = ("", b"")
        self._work = 0
        self._run = 0
        self._started = 0.0
        self._captions_since = 0
        self._errors_since = 0
        self.outputs = JournalOutputs(self._database, self.path_key, self.path_of)

    @property
    def path(self) -> str:
        """The SQLite file."""
        return self._database.path

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; what was not committed is lost."""
        self._database.close()

    def commit(self) -> None:
        """Make everything so far survive a power cut."""
        self._database.commit()

    # Paths

    def path_key(self, path: str) -> bytes:
        """How a path is kept: its bytes, relative to the journal's folder where it is in it.

        So a folder can be moved together with its journal.
        """
        last, key = self._last_key
        if path == last:  # each photo is asked for several times in a row
            return key
        absolute = os.path.abspath(path)
        inside = absolute.startswith(self._folder)
        key = os.fsencode(absolute[len(self._folder) :] if inside else absolute)
        self._last_key = (path, key)
        return key

    def path_of(self, key: bytes) -> str:
        """The absolute path behind what `path_key` gave."""
        return os.path.join(self._folder, os.fsdecode(key))

    # Runs

    def begin_run(self, work: Work, *, redo: bool = False, retry_failed: bool = False) -> int:
        """Start a run; captions are looked up and recorded as this work's from now on.

        Args:
            work: What this run does.
            redo: Do not take captions for known that are older than this run.
            retry_failed: Do not take failures for known that are older than this run.

        Returns:
            The run's number.
        """
        from kiloword import __version__

        self.select_work(work)
        self._started = time.time()
        statement = "INSERT INTO runs (work, version, started) VALUES (?, ?, ?)"
        self._run = self._database.run(statement, (self._work, __version__, self._started))
        self._database.run("DELETE FROM listing")
        self._captions_since = self._run if redo else 0
        self._errors_since = self._run if redo or retry_failed else 0
        self.outputs.run = self._run
        self.commit()
        return self._run

    def select_work(self, work: Work) -> None:
        """Look captions up as this work's."""
        values = (work.bundle, work.settings)
        found = self._database.one("SELECT id FROM works WHERE bundle = ? AND settings = ?", values)
        if found is None:
            statement = "INSERT INTO works (bundle, settings, bundle_name) VALUES (?, ?, ?)"
            self._work = self._database.run(statement, (*values, work.bundle_name))
        else:
            (self._work,) = found

    def count(self, *, captioned: int = 0, failed: int = 0, ended: bool = False) -> None:
        """Add to what this run has done."""
        statement = (
            "UPDATE runs SET captioned = captioned + ?, failed = failed + ?, seconds = ?, ended = ?"
            " WHERE id = ?"
        )
        seconds = max(0.0, time.time() - self._started)
        self._database.run(statement, (captioned, failed, seconds, ended, self._run))

    def runs(self) -> list[Run]:
        """All runs, the newest first."""
        query = (
            "SELECT runs.id, bundle_name, version, started, seconds, captioned, failed, ended"
            " FROM runs JOIN works ON works.id = runs.work ORDER BY runs.id DESC"
        )
        return [
            Run(number, bundle, version, started, seconds, captioned, failed, bool(ended))
            for number, bundle, version, started, seconds, captioned, failed, ended in self._database.rows(
                query
            )
        ]

    def seconds_per_photo(self) -> float | None:
        """What this work took for a photo in its last run of some length, if there was one."""
        query = "SELECT seconds / captioned FROM runs WHERE work = ? AND captioned >= 8 ORDER BY id DESC"
        found = self._database.one(query, (self._work,))
        return None if found is None else float(found[0])

    # Photos and captions

    def unchanged(
        self, path: str, stat: os.stat_result, *, with_caption: bool = True
    ) -> tuple[bytes, Outcome | None] | None:
        """What is known of a file that has not changed since it was read, without reading it.

        Args:
            path: The file.
            stat: Its size and time now.
            with_caption: False leaves a caption out of the outcome, which is quicker.

        Returns:
            Its content's hash, and its outcome under this work if there is one; None if it must be read.
        """
        query = (
            "SELECT files.content, work, caption, confidence, details, error FROM files"
            f" LEFT JOIN captions ON captions.content = files.content AND {_COUNTS}"
            " WHERE path = ? AND size = ? AND mtime_ns = ?"
        )
        values = (*self._what_counts(), self.path_key(path), stat.st_size, stat.st_mtime_ns)
        found = self._database.one(query, values)
        if found is None:
            return None
        content, work, *outcome = found
        if work is None:
            return content, None
        if not with_caption and outcome[0] is not None:
            return content, _CAPTIONED
        return content, _outcome(*outcome)

    def outcome_of(self, content: bytes) -> Outcome | None:
        """What became of a content under this work, wherever the photo lay then."""
        query = f"SELECT caption, confidence, details, error FROM captions WHERE {_COUNTS} AND content = ?"
        found = self._database.one(query, (*self._what_counts(), content))
        return None if found is None else _outcome(*found)

    def sizes(self) -> set[int]:
        """Sizes of all files that were ever read: a file of another size has a content that is new."""
        return {size for (size,) in self._database.rows("SELECT DISTINCT size FROM files")}

    def _what_counts(self) -> tuple[int, int, int]:
        return self._work, self._captions_since, self._errors_since

    def forget_file(self, path: str) -> None:
        """Forget what this file was when it was read last, for it has changed."""
        self._database.run("DELETE FROM files WHERE path = ?", (self.path_key(path),))

    def forget_outcome(self, path: str) -> None:
        """Forget what became of this file, so that it is done again."""
        statement = (
            "DELETE FROM captions WHERE work = ? AND content = (SELECT content FROM files WHERE path = ?)"
        )
        self._database.run(statement, (self._work, self.path_key(path)))

    def record_file(self, path: str, stat: os.stat_result, content: bytes) -> None:
        """Remember that this file, with this size and time, has this content."""
        age_ns = abs(time.time_ns() - stat.st_mtime_ns)
        mtime_ns = None if age_ns < _CLOCK_TICK_NS else stat.st_mtime_ns
        statement = "INSERT OR REPLACE INTO files (path, size, mtime_ns, content) VALUES (?, ?, ?, ?)"
        self._database.run(statement, (self.path_key(path), stat.st_size, mtime_ns, content))

    def record_outcome(self, content: bytes, outcome: Outcome) -> None:
        """Remember what became of a content under this work."""
        caption = outcome.caption
        known = (
            (None, None, None) if caption is None else (caption.text, caption.confidence, _details(caption))
        )
        statement = (
            "INSERT OR REPLACE INTO captions (content, work, run, caption, confidence, details, error)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
        )
        self._database.run(statement, (content, self._work, self._run, *known, outcome.error))

    # The photos of this run

    def list_photo(self, position: int, path: str) -> bool:
        """Put a photo on this run's list; False if it is there already, by whatever name it was given."""
        statement = "INSERT OR IGNORE INTO listing (position, path, shown) VALUES (?, ?, ?)"
        return self._database.change(statement, (position, self.path_key(path), os.fsencode(path))) == 1

    def list_error(self, position: int, path: str, error: str) -> None:
        """Note on the list why something there has no content: a folder or a file that cannot be read."""
        statement = (
            "INSERT INTO listing (position, shown, error) VALUES (?, ?, ?)"
            " ON CONFLICT (position) DO UPDATE SET error = excluded.error"
        )
        self._database.run(statement, (position, os.fsencode(path), error))

    def listed(self) -> Iterator[Listed]:
        """This run's photos in order, each once, with what is known of them."""
        query = (
            "SELECT shown, files.content, listing.error, captions.work, caption, confidence, details,"
            " captions.error"
            " FROM listing"
            " LEFT JOIN files ON files.path = listing.path"
            " LEFT JOIN captions ON captions.content = files.content AND captions.work = ?"
            " ORDER BY position"
        )
        for shown, content, error, work, *outcome in self._database.rows(query, (self._work,)):
            if error is not None:
                known: Outcome | None = Outcome(error=error)
            else:
                known = None if work is None else _outcome(*outcome)
            yield Listed(os.fsdecode(shown), known, content)

    # The output as a whole

    def note_written(self, target: str, listing: bytes) -> None:
        """Remember that an output was written.

        Args:
            target: The file.
            listing: Hash of all that it was written from.
        """
        stat = os.stat(target)
        statement = "INSERT OR REPLACE INTO listings (target, listing, size, mtime_ns) VALUES (?, ?, ?, ?)"
        values = (self.path_key(target), self._hash_with_work(listing), stat.st_size, stat.st_mtime_ns)
        self._database.run(statement, values)

    def is_current(self, target: str, listing: bytes) -> bool:
        """Whether an output was written from just this, and nobody has touched it since."""
        query = "SELECT listing, size, mtime_ns FROM listings WHERE target = ?"
        found = self._database.one(query, (self.path_key(target),))
        try:
            stat = os.stat(target)
        except OSError:
            return False
        return found == (self._hash_with_work(listing), stat.st_size, stat.st_mtime_ns)

    def _hash_with_work(self, listing: bytes) -> bytes:
        return content_hash(b"%d:%b" % (self._work, listing))


def _details(caption: Caption) -> str:
    fields = dataclasses.fields(caption)
    return _as_json({field.name: getattr(caption, field.name) for field in fields if _is_detail(field.name)})


def _is_detail(name: str) -> bool:
    return name not in _CAPTION_FIELDS_LEFT_OUT


def _outcome(text: str | None, confidence: float, details: str, error: str | None) -> Outcome:
    if text is None:
        return Outcome(error=error)
    from kiloword.runtime.captions import Caption

    # JSON knows no tuples.
    known: dict[str, Any] = {
        name: tuple(fact) if isinstance(fact, list) else fact for name, fact in json.loads(details).items()
    }
    return Outcome(Caption(text, confidence, (), (), **known))


def _as_json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
