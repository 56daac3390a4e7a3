"""The journal: what it knows again, what survives a kill, and how it says no."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kiloword import JournalError
from kiloword.runtime.bundle import Bundle
from kiloword.runtime.captions import Caption
from kiloword.runtime.hashing import content_hash
from kiloword.runtime.journal import Journal, Work, journal_of, work_of
from kiloword.runtime.outputs import Outcome

WORK = Work("bundle", "tiny", "{}")
CAPTION = Caption("a dog runs", 0.5, (5, 2), (-0.1, -0.2), 12.5, "tiny", ("is truncated",), sure=False)
OLD_NS = 1_600_000_000_000_000_000


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(str(tmp_path / "j"))
    journal.begin_run(WORK)
    return journal


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A file that is old enough for its time to be relied on."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"pixels")
    os.utime(path, ns=(OLD_NS, OLD_NS))
    return path


def record(journal: Journal, photo: Path, outcome: Outcome) -> bytes:
    content = content_hash(photo.read_bytes())
    journal.record_file(str(photo), photo.stat(), content)
    journal.record_outcome(content, outcome)
    journal.commit()
    return content


def test_an_unchanged_file_is_known_without_reading_it(journal: Journal, photo: Path) -> None:
    content = record(journal, photo, Outcome(CAPTION))
    found = journal.unchanged(str(photo), photo.stat())
    assert found is not None
    assert found[0] == content
    assert found[1] is not None
    # All but the tokens comes back: they are said to be left out.
    assert found[1].caption == dataclasses.replace(CAPTION, token_ids=(), token_logprobs=())


def test_a_changed_file_is_not_known(journal: Journal, photo: Path) -> None:
    record(journal, photo, Outcome(CAPTION))
    photo.write_bytes(b"PIXELS")
    assert journal.unchanged(str(photo), photo.stat()) is None
    os.utime(photo, ns=(OLD_NS, OLD_NS))
    assert journal.unchanged(str(photo), photo.stat()) is not None  # as said: size and time are relied on
    photo.write_bytes(b"more pixels")
    os.utime(photo, ns=(OLD_NS, OLD_NS))
    assert journal.unchanged(str(photo), photo.stat()) is None


def test_the_time_of_a_file_that_was_just_written_is_not_relied_on(journal: Journal, photo: Path) -> None:
    """It may change again within the same tick of the file system's clock."""
    os.utime(photo, ns=(time.time_ns(), time.time_ns()))
    record(journal, photo, Outcome(CAPTION))
    assert journal.unchanged(str(photo), photo.stat()) is None


def test_a_content_is_known_wherever_it_lies(journal: Journal, photo: Path) -> None:
    content = record(journal, photo, Outcome(CAPTION))
    moved = photo.rename(photo.with_name("moved.jpg"))
    assert journal.unchanged(str(moved), moved.stat()) is None
    known = journal.outcome_of(content)
    assert known is not None
    assert known.caption is not None


def test_other_work_finds_nothing(journal: Journal, photo: Path) -> None:
    content = record(journal, photo, Outcome(CAPTION))
    for work in (Work("other", "tiny", "{}"), Work("bundle", "tiny", '{"num_beams":2}')):
        journal.begin_run(work)
        assert journal.unchanged(str(photo), photo.stat()) == (content, None)
        assert journal.outcome_of(content) is None
    journal.begin_run(dataclasses.replace(WORK, bundle_name="renamed"))
    assert journal.outcome_of(content) is not None


def test_redo_and_retry_failed(journal: Journal, photo: Path) -> None:
    """What this run itself has done counts in either case, or duplicates would be done twice."""
    good, bad = record(journal, photo, Outcome(CAPTION)), b"bad"
    journal.record_outcome(bad, Outcome(error="is empty"))
    for options, knows in (
        ({}, (True, True)),
        ({"retry_failed": True}, (True, False)),
        ({"redo": True}, (False, False)),
    ):
        journal.begin_run(WORK, **options)
        assert tuple(journal.outcome_of(content) is not None for content in (good, bad)) == knows
    journal.record_outcome(bad, Outcome(error="is empty"))
    assert journal.outcome_of(bad) == Outcome(error="is empty")


def test_the_list_has_each_photo_once_in_order(journal: Journal, photo: Path, tmp_path: Path) -> None:
    record(journal, photo, Outcome(CAPTION))
    assert journal.list_photo(0, str(tmp_path / "new.jpg"))
    assert journal.list_photo(7, str(photo))
    assert not journal.list_photo(8, os.path.join(str(tmp_path), "x", "..", "photo.jpg"))
    journal.list_error(3, "folder", "cannot be read")
    listed = list(journal.listed())
    assert [os.path.basename(photo.path) for photo in listed] == ["new.jpg", "folder", "photo.jpg"]
    assert listed[0].outcome is None
    assert listed[1].outcome == Outcome(error="cannot be read")
    assert listed[2].outcome is not None
    journal.begin_run(WORK)
    assert list(journal.listed()) == []


def test_a_folder_may_move_with_its_journal(tmp_path: Path) -> None:
    """As on a disk that is mounted elsewhere: nothing needs to be read again."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    photo = folder / "sub" / "a.jpg"
    photo.write_bytes(b"pixels")
    os.utime(photo, ns=(OLD_NS, OLD_NS))
    with Journal(journal_of(str(folder))) as journal:
        journal.begin_run(WORK)
        record(journal, photo, Outcome(CAPTION))
    moved = folder.rename(tmp_path / "elsewhere") / "sub" / "a.jpg"
    with Journal(journal_of(str(tmp_path / "elsewhere"))) as journal:
        journal.begin_run(WORK)
        assert journal.unchanged(str(moved), moved.stat()) is not None


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX file names")
def test_names_that_are_no_utf8(journal: Journal, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    assert journal.list_photo(0, name)
    assert [photo.path for photo in journal.listed()] == [name]


def test_the_bundle_is_known_by_what_changes_captions(bundle: Bundle) -> None:
    """The same graphs under another name and with another report are the same work; another file is not."""
    manifest = bundle.manifest
    settings = dataclasses.asdict(manifest.generation)
    work = work_of(manifest, settings)
    renamed = dataclasses.replace(manifest, name="other", report={"CIDEr": 1}, provenance={})
    assert work_of(renamed, settings).bundle == work.bundle
    files = {
        **manifest.files,
        "decoder.onnx": dataclasses.replace(manifest.files["decoder.onnx"], sha256="0" * 64),
    }
    assert work_of(dataclasses.replace(manifest, files=files), settings).bundle != work.bundle
    image = dataclasses.replace(manifest.image, resample="box")
    assert work_of(dataclasses.replace(manifest, image=image), settings).bundle != work.bundle
    assert work_of(manifest, {**settings, "num_beams": 3}) != work


def test_runs_are_counted(journal: Journal) -> None:
    journal.count(captioned=10, failed=1)
    journal.count(captioned=10, ended=True)
    (run,) = journal.runs()
    assert (run.captioned, run.failed, run.ended, run.bundle_name) == (20, 1, True, "tiny")
    journal.begin_run(WORK)
    assert [run.ended for run in journal.runs()] == [False, True]
    assert journal.seconds_per_photo() == pytest.approx(run.seconds / 20)


def test_outputs_are_known_and_taken_back_in_reverse(journal: Journal, photo: Path) -> None:
    outputs, sidecar = journal.outputs, str(photo.with_suffix(".txt"))
    run = outputs.run
    first = outputs.plan(str(photo), sidecar, "txt", "a dog", before=None, after=content_hash(b"a dog\n"))
    outputs.mark(first, "written")
    after = content_hash(b"a cat\n")
    before = content_hash(b"a dog\n")
    second = outputs.plan(str(photo), sidecar, "txt", "a cat", before=before, after=after, undo=b"u")
    journal.commit()
    assert outputs.wrote(str(photo), sidecar, content_hash(b"a dog\n"))
    assert outputs.wrote(
        str(photo), sidecar, content_hash(b"a cat\n")
    )  # it may have been written before a kill
    assert not outputs.wrote(str(photo), sidecar, content_hash(b"somebody's own words\n"))
    assert not outputs.wrote(str(photo.with_suffix(".png")), sidecar, content_hash(b"a cat\n"))
    latest = outputs.latest(str(photo), "txt")
    assert latest is not None
    assert (latest.id, latest.text, latest.state, latest.undo) == (second, "a cat", "planned", b"u")
    assert (latest.photo, latest.target) == (str(photo), sidecar)
    assert [output.id for output in outputs.of_run(run)] == [second, first]
    for output in (first, second):
        outputs.mark(output, "undone")
    assert list(outputs.of_run(run)) == []
    assert not outputs.wrote(str(photo), sidecar, content_hash(b"a cat\n"))


# Faults


def fill(journal: Journal) -> None:
    for number in range(10_000):
        journal.record_outcome(str(number).encode(), Outcome(error="x" * 100))


def test_a_kill_loses_only_what_was_not_committed(tmp_path: Path) -> None:
    """A process that dies without a word: no `close`, no checkpoint of the WAL; and the lock is free."""
    path = tmp_path / "j"
    script = (
        "import os, sys\n"
        "from kiloword.runtime.journal import Journal, Outcome, Work\n"
        "journal = Journal(sys.argv[1]); journal.begin_run(Work('bundle', 'tiny', '{}'))\n"
        "journal.record_outcome(b'a', Outcome(error='x')); journal.commit()\n"
        "journal.record_outcome(b'b', Outcome(error='x'))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode != 0
    with Journal(str(path)) as journal:
        journal.begin_run(WORK)
        assert journal.outcome_of(b"a") is not None
        assert journal.outcome_of(b"b") is None


def test_a_second_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with Journal(str(tmp_path / "j")), pytest.raises(JournalError, match=r"another run.*--state"):
        Journal(str(tmp_path / "j"))
    Journal(str(tmp_path / "j")).close()


@pytest.mark.parametrize(
    ("content", "message"), [(b"my own words, long enough to be a header" * 9, "is no journal")]
)
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=message):
        Journal(str(path))
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE captions (x)")
    connection.close()
    with pytest.raises(JournalError, match="another program"):
        Journal(str(path))


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    Journal(str(path)).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalError, match=r"version.*99"):
        Journal(str(path))


def test_places_where_no_journal_can_be(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "j", tmp_path):
        with pytest.raises(JournalError, match=r"cannot be written.*folder"):
            Journal(str(path))


def test_a_full_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    """SQLite's own limit on a file's pages gives the very error that a full disk gives (SQLITE_FULL)."""
    path = tmp_path / "j"
    journal = Journal(str(path))
    journal.begin_run(WORK)
    journal.record_outcome(b"a", Outcome(error="x"))
    journal.commit()
    connection = journal._database._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalError, match=r"disk is full.*kept"):
        fill(journal)
    assert journal.outcome_of(b"a") is not None
    assert journal.outcome_of(b"0") is None
    journal.close()
