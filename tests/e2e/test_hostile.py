"""Folders as they are, by the real command: nothing crashes, nothing hangs, each file gets its line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bundles import make_tiny_bundle
from tests.hostile import CAPTION, ERROR, WARNING, Hostile, make_hostile, make_odd_entries, mutated

pytestmark = pytest.mark.e2e

TIMEOUT_S = 300
MUTATIONS = 500


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle")).directory


def captioned(folder: Path, bundle: Path) -> tuple[dict[str, dict[str, Any]], list[str], int]:
    """Rows by path, the lines on stderr, and the exit code; the whole folder in one process."""
    options = ("--format", "jsonl", "--bundle", str(bundle), "--threads", "1")
    done = subprocess.run(
        [sys.executable, "-m", "kiloword.cli", "caption", str(folder), *options],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    stdout, stderr = done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    assert done.returncode in (0, 1), stderr
    rows = [json.loads(line) for line in stdout.splitlines()]
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows), "a photo was captioned twice"
    return by_path, stderr.splitlines(), done.returncode


def problem_of(case: Hostile, row: dict[str, Any] | None) -> str | None:
    """What is wrong with a row, or None."""
    if row is None:
        return f"{case.path}: no row"
    found = ERROR if "error" in row else WARNING if "warning" in row else CAPTION
    said = row.get("error") or row.get("warning") or ""
    if found == case.outcome and case.words in said:
        return None
    return f"{case.path.name!r}: expected {case.outcome} {case.words!r}, found {found} {said!r}"


def check(cases: list[Hostile], folder: Path, bundle: Path) -> None:
    rows, said, code = captioned(folder, bundle)
    problems = [problem_of(case, rows.get(str(case.path))) for case in cases]
    assert [problem for problem in problems if problem] == []
    assert len(rows) == len(cases)
    failed = [row for row in rows.values() if "error" in row]
    warned = [row for row in rows.values() if "warning" in row]
    assert code == (1 if failed else 0)
    # One line for each failure and each warning, and one that counts; nothing from any library below.
    assert [line for line in said if not line.startswith(("error: ", "warning: "))] == []
    assert sum(line.startswith("error: ") for line in said) == len(failed) + (1 if failed else 0)
    assert sum(line.startswith("warning: ") for line in said) == len(warned)


def test_each_hostile_file_gets_its_line(tmp_path: Path, bundle: Path) -> None:
    cases = make_hostile(tmp_path)
    assert len(cases) >= 60
    check(cases, tmp_path, bundle)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX links, pipes and names")
def test_odd_entries_of_a_folder(tmp_path: Path, bundle: Path) -> None:
    """A pipe would be read forever, as would /dev/zero; a ring of links has no end."""
    check(make_odd_entries(tmp_path), tmp_path, bundle)


def test_mutated_files(tmp_path: Path, bundle: Path) -> None:
    """Whatever damage does: a caption or a line that begins with the file's path, for each of them."""
    for name, data in mutated(seed=20, count=MUTATIONS):
        (tmp_path / name).write_bytes(data)
    rows, said, _ = captioned(tmp_path, bundle)
    assert len(rows) == MUTATIONS
    failed = {path: row["error"] for path, row in rows.items() if "error" in row}
    assert [error for path, error in failed.items() if not error.startswith(f"{path}: ")] == []
    assert [error for error in failed.values() if "\n" in error] == []
    # No library below writes a word of its own: it would name no file, and stand in the middle of our lines.
    assert [line for line in said if not line.startswith(("error: ", "warning: "))] == []
    assert MUTATIONS / 5 < len(failed) < MUTATIONS * 4 / 5  # the damage is neither harmless nor total
