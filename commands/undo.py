"""`kiloword undo`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from kiloword.commands.common import EXIT_FAILED, as_written, echo, verbose_option

if TYPE_CHECKING:
    from kiloword.runtime.undo import TakenBack

_log = logging.getLogger("kiloword")


@click.command(
    epilog=as_written(
        "What happens to a file:",
        "  restored   nobody changed it since: it holds the bytes that it held before",
        "  removed    nobody changed it since, and it was not there before",
        "  withdrawn  it was changed since: our caption and marks are out, all else stays",
        "  kept       it was changed since, and ours cannot be told from the rest (a txt file)",
        "",
        "Examples:",
        "  kiloword undo holidays/ --dry-run",
        "  kiloword undo holidays/",
        "  kiloword undo captions.jsonl --all",
    )
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--state", type=click.Path(dir_okay=False), metavar="FILE", help="The run's journal.")
@click.option(
    "--run", "run_id", type=click.IntRange(min=1), metavar="N", help="This run.  [default: the last]"
)
@click.option("--all", "all_runs", is_flag=True, help="All runs.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@verbose_option
def undo(
    paths: tuple[str, ...], state: str | None, run_id: int | None, all_runs: bool, dry_run: bool
) -> None:
    """Take back what a run wrote beside and into photos.

    PATH is what was captioned, or the file named by -o: the run's journal is found by it. Without a journal,
    captions in XMP sidecars and JPEGs are found by the marks in them; a txt file has no marks and stays.
    Texts that somebody wrote or changed stay in any case.
    """
    if run_id is not None and all_runs:
        raise click.UsageError("--run and --all exclude each other")
    failed, found_any = False, False
    for taken in _take_back(paths, state, run_id, all_runs, dry_run):
        found_any = True
        failed |= taken.result == "failed"
        _say(taken)
    if not found_any:
        _log.warning("there is nothing to take back")
    if failed:
        sys.exit(EXIT_FAILED)


def _say(taken: TakenBack) -> None:
    from kiloword.runtime.outputs import printable

    path = printable(taken.path)
    if taken.result == "failed":
        _log.error("%s: cannot be taken back: %s", path, taken.reason)
    elif taken.result == "kept":
        _log.warning("%s: kept: %s", path, taken.reason)
    elif taken.result != "nothing":
        echo(f"{taken.result} {path}\n")


def _take_back(
    paths: tuple[str, ...], state: str | None, run_id: int | None, all_runs: bool, dry_run: bool
) -> Iterator[TakenBack]:
    from kiloword.runtime.journal import journal_of

    journals = [state] if state else [path for path in map(journal_of, paths) if os.path.isfile(path)]
    if not journals:
        if run_id is not None or all_runs:
            raise click.UsageError(f"there is no journal of {paths[0]}; name it with --state FILE")
        _log.warning(
            "%s: there is no journal; what has marks of ours is taken back, which txt files have not."
            " After a run with -o FILE: kiloword undo FILE",
            paths[0],
        )
        yield from _by_marks(paths, dry_run)
    for journal in journals:
        yield from _by_journal(journal, run_id, all_runs, dry_run)


def _by_journal(path: str, run_id: int | None, all_runs: bool, dry_run: bool) -> Iterator[TakenBack]:
    from kiloword.runtime.journal import Journal
    from kiloword.runtime.undo import undo_run

    if not os.path.isfile(path):
        raise click.UsageError(f"{path}: there is no such journal")
    with Journal(path) as journal:
        runs = journal.outputs.runs()
        if run_id is not None:
            runs = [run for run in runs if run == run_id]
        for run in runs if all_runs else runs[:1]:
            yield from undo_run(journal, run, dry_run=dry_run)


def _by_marks(paths: tuple[str, ...], dry_run: bool) -> Iterator[TakenBack]:
    from kiloword.runtime.folders import expand_paths
    from kiloword.runtime.undo import undo_marked

    for photo in expand_paths(paths):
        if isinstance(photo, str):
            yield from undo_marked(photo, dry_run=dry_run)
        else:
            _log.error("%s", photo)
