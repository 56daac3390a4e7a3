"""Kills runs over a folder again and again; in the end, nothing must be lost and nothing done twice.

    python -m benchmarks.folder_kills FOLDER --kills 30

Each run is killed (SIGKILL) at a random moment, wherever it is: while it starts, lists, captions, commits,
writes a sidecar or the output. The checks read files and the journal with Python's own modules, not with
the code that wrote them.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from benchmarks.folder_photos import SIZE_SMALL, make_photos
from benchmarks.machine import REPOSITORY, write_result

_MORE_PHOTOS = 50


@dataclass
class Killed:
    """How it went."""

    kills: int = 0
    runs: int = 0
    photos: int = 0
    problems: list[str] = field(default_factory=list)
    """What is wrong in the end; empty if all is well."""


def run_with_kills(
    folder: Path, kills: int, *, most_s: float, photos: int, bundle: Path | None = None, seed: int = 0
) -> Killed:
    """Kill runs until there were enough kills, then let one come to its end, and check everything.

    Args:
        folder: Holds the photos, which are made here; the output is written beside it.
        kills: How many.
        most_s: Latest moment of a kill after a run's start, seconds.
        photos: How many photos to begin with; there are more when a run ends before it is killed.
        bundle: The bundle; None for the one that ships.
        seed: Chooses the moments.
    """
    output = folder.parent / "killed.jsonl"
    option = [] if bundle is None else ["--bundle", str(bundle)]
    command = [sys.executable, str(REPOSITORY / "cli.py"), "caption", str(folder), "-o", str(output)]
    command += ["--sidecar", "txt", *option]
    moments = random.Random(seed)
    done = Killed(photos=photos)
    make_photos(folder, photos, SIZE_SMALL)
    while done.kills < kills:
        done.runs += 1
        if _killed(command, moments.uniform(0, most_s), done):
            done.kills += 1
            done.problems += _broken_lines(output)
        else:
            done.photos += _MORE_PHOTOS
            make_photos(folder, done.photos, SIZE_SMALL)
    last = subprocess.run(command, capture_output=True, check=False, cwd=REPOSITORY)
    if last.returncode:
        done.problems.append(f"the last run ended with {last.returncode}: {last.stderr.decode()}")
    done.problems += problems_of(folder, output)
    return done


def _killed(command: Sequence[str], after_s: float, done: Killed) -> bool:
    """Start a run and kill it; False if it ended by itself before."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=REPOSITORY
    ) as process:
        deadline = time.monotonic() + after_s
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.002)
        ended = process.poll() is not None
        process.kill()
        _, stderr = process.communicate()
    if ended and process.returncode:
        done.problems.append(f"a run ended with {process.returncode}: {stderr.decode()}")
    return not ended


def _broken_lines(output: Path) -> list[str]:
    """An output that is there is whole, at any moment."""
    if not output.exists():
        return []
    try:
        [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    except ValueError as error:
        return [f"after a kill, {output.name} is no JSONL: {error}"]
    return []


def problems_of(folder: Path, output: Path) -> list[str]:
    """All that is wrong when all should be done."""
    photos = sorted(str(path) for path in folder.rglob("*.jpg"))
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    problems = []
    if sorted(row["path"] for row in rows) != photos:
        problems.append(f"{len(rows)} rows for {len(photos)} photos, or others")
    problems += [f"no caption: {row}" for row in rows if not row.get("caption")]
    problems += [f"left behind: {path}" for path in output.parent.rglob("*") if _is_leftover(path)]
    for row in rows:
        sidecar = Path(row["path"]).with_suffix(".txt")
        if row.get("reliable", True) and (
            not sidecar.exists() or sidecar.read_text("utf-8") != f"{row['caption']}\n"
        ):
            problems.append(f"no sidecar with the caption: {sidecar}")
    return problems + _problems_of_journal(Path(f"{output}.journal"), len(photos))


def _is_leftover(path: Path) -> bool:
    return path.suffix in (".part", ".partial") or path.name.endswith(("-wal", "-shm"))


def _problems_of_journal(journal: Path, photos: int) -> list[str]:
    """Each photo has a caption, which was recorded in one run only (every photo has a content of its own)."""
    connection = sqlite3.connect(journal)
    try:
        (check,) = connection.execute("PRAGMA integrity_check").fetchone()
        (captions,) = connection.execute("SELECT count(*) FROM captions WHERE caption IS NOT NULL").fetchone()
        (counted,) = connection.execute("SELECT sum(captioned) FROM runs").fetchone()
        (planned,) = connection.execute("SELECT count(*) FROM outputs WHERE state = 'planned'").fetchone()
    finally:
        connection.close()
    found = {"integrity": check, "captions": captions, "recorded by all runs": counted}
    expected = {"integrity": "ok", "captions": photos, "recorded by all runs": photos}
    problems = [] if found == expected else [f"journal: expected {expected}, found {found}"]
    return problems + ([f"journal: {planned} outputs are still planned"] if planned else [])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--kills", default=30, show_default=True)
@click.option("--photos", default=400, show_default=True)
@click.option("--most-s", default=4.0, show_default=True, help="Latest moment of a kill.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle other than the one that ships.")
@click.option("--seed", default=0, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    folder: Path, kills: int, photos: int, most_s: float, bundle: Path | None, seed: int, output: Path | None
) -> None:
    """Kill runs over FOLDER, which must be empty or not there, and check what is left in the end."""
    if folder.exists() and os.listdir(folder):
        raise click.ClickException(f"{folder} is not empty")
    done = run_with_kills(folder, kills, most_s=most_s, photos=photos, bundle=bundle, seed=seed)
    for problem in done.problems:
        click.echo(problem, err=True)
    row = {"kills": done.kills, "runs": done.runs, "photos": done.photos, "problems": len(done.problems)}
    settings = {"kills": kills, "photos": photos, "most_s": most_s, "seed": seed}
    click.echo(f"{row}\nwrote {write_result('folder_kills', settings, [row], output)}", err=True)
    sys.exit(1 if done.problems else 0)


if __name__ == "__main__":
    main()
