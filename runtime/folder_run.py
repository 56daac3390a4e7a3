"""One run over many photos: opens the journal, captions what is missing, and writes the output.

With a journal, a run only does what is new, changed or outdated, and a file named by `-o` is written from the
journal when all is done: so it has each photo once and in order, whatever happened before. Without one, rows
go to the output as they come.
"""

from __future__ import annotations

import glob
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kiloword.runtime.errors import ImageError
from kiloword.runtime.folders import STDIN
from kiloword.runtime.hashing import ListingHash, content_hash
from kiloword.runtime.outputs import make_writer, remove_leftovers, write_atomically
from kiloword.runtime.pipeline import Pipeline, PipelineOptions
from kiloword.runtime.reading import read_photo
from kiloword.runtime.recording import Counts, OrderedWriter, Recorder
from kiloword.runtime.results import row_of
from kiloword.runtime.roots import Roots, RootWatch

if TYPE_CHECKING:
    from types import FrameType

    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.journal import Journal
    from kiloword.runtime.outputs import RowWriter
    from kiloword.runtime.progress import CaptionProgress
    from kiloword.runtime.sinks import Sink

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderRun:
    """What is asked of a run."""

    state: str | None = None
    """The journal's file; None for a run that remembers nothing."""
    output: str | None = None
    """The file that is written from the journal when all is done; None where rows go to a writer."""
    format_name: str = "text"
    """Its format, one of `outputs.FORMATS`."""
    with_path: bool = True
    """Whether lines of text begin with the photo's path."""
    mark: bool = False
    """Whether a CSV file begins with the mark by which spreadsheets know UTF-8."""
    sinks: Sequence[Sink] = field(default=())
    """Where captions go beside the photos."""
    gallery: str | None = None
    """A page with all photos, written from the journal when all is done."""
    redo: bool = False
    """Do photos again that are done."""
    redo_first: Callable[[], Iterable[str | ImageError]] | None = None
    """Lists the photos to do again; None where they can be listed only once, as those on stdin."""
    retry_failed: bool = False
    """Do photos again that failed."""
    folders: Sequence[str] = field(default=())
    """Without these there is no sense in going on: the folders on the command line."""


@dataclass(frozen=True)
class RunEnd:
    """How a run ended."""

    counts: Counts
    interrupted: bool
    """Whether Ctrl-C ended it before all was done."""


def default_state(paths: Sequence[str], output: str | None, *, sidecars: bool) -> str | None:
    """Where a run's journal lies when nobody says: beside what is written, or nowhere.

    Args:
        paths: What is to be captioned, as on the command line.
        output: The file that captions go to, if any.
        sidecars: Whether captions go beside the photos.
    """
    # Journals are imported where there is one: a single photo on stdout need not wait for SQLite.
    from kiloword.runtime.journal import journal_of

    # What is there and no file is a pipe, or /dev/null.
    if output is not None and (os.path.isfile(output) or not os.path.exists(output)):
        return journal_of(output)
    return journal_of(_folder_of(paths[0])) if sidecars else None


def _folder_of(path: str) -> str:
    if path == STDIN:
        return os.curdir
    while glob.has_magic(path) and not os.path.lexists(path):
        path = os.path.dirname(path)
    return path if os.path.isdir(path) else os.path.dirname(path) or os.curdir


def run_folder(
    captioner: Captioner,
    photos: Iterable[str | ImageError],
    run: FolderRun,
    options: PipelineOptions,
    progress: CaptionProgress,
    writer: RowWriter | None = None,
) -> RunEnd:
    """Caption photos and put the captions where they belong.

    Ctrl-C lets the batches end that are in the model, and records them; a second one ends the program.

    Args:
        captioner: What captions.
        photos: What `expand_paths` yields.
        run: What is asked for.
        options: How photos are captioned.
        progress: What people see meanwhile.
        writer: Where rows go in order as they come; None for none.

    Raises:
        JournalError: The journal cannot be used; what was recorded is kept.
        KilowordError: A folder of the run cannot be read any more; what was recorded is kept.
        OSError: The output cannot be written; with a journal, all captions are kept in it.
    """
    watch = RootWatch(Roots.of(run.folders))
    with _open_journal(run, captioner, options) as journal:
        recorder = Recorder(journal, run.sinks, progress)
        ordered = None if writer is None else OrderedWriter(writer, progress)
        wanted = replace(options, known_captions=bool(run.sinks) or writer is not None)
        pipeline = Pipeline(captioner, photos, wanted, journal)
        with _until_interrupted(pipeline.stop) as interrupted, pipeline, progress:
            for listed in pipeline:
                results = watch.without_lost(listed)
                if watch.lost is not None:
                    pipeline.stop()
                recorder.record(results)
                if ordered is not None:
                    ordered.write(results)
                    pipeline.all_before(ordered.position)
        if ordered is not None:
            ordered.write_rest()
        end = RunEnd(recorder.counts, interrupted.is_set() or watch.lost is not None)
        if journal is not None:
            _finish(journal, run, end, recorder.listing)
        if watch.lost is not None:
            raise watch.lost
        return end


@contextmanager
def _open_journal(run: FolderRun, captioner: Captioner, options: PipelineOptions) -> Iterator[Journal | None]:
    if run.state is None:
        yield None
        return
    from kiloword.runtime.journal import Journal, work_of

    settings = captioner.settings_that_count(
        num_beams=options.num_beams, max_new_tokens=options.max_new_tokens
    )
    with Journal(run.state) as journal:
        _clean_up(journal, run)
        journal.begin_run(
            work_of(captioner.bundle.manifest, settings), redo=run.redo, retry_failed=run.retry_failed
        )
        if run.redo and run.redo_first is not None:
            _forget(journal, run.redo_first())
        yield journal


def _forget(journal: Journal, photos: Iterable[str | ImageError]) -> None:
    """Forget what became of photos, all at once: a run that is killed is continued without --redo."""
    for photo in photos:
        if isinstance(photo, str):
            journal.forget_outcome(photo)
    journal.commit()


def _clean_up(journal: Journal, run: FolderRun) -> None:
    """See what runs that were killed while they wrote have done, and remove their temporary files."""
    for planned in list(journal.outputs.unfinished()):
        target = Path(planned.target)
        remove_leftovers(target)
        written = target.is_file() and _hash_of(target) == planned.content_after
        journal.outputs.mark(planned.id, "written" if written else "failed")
    if run.output is not None:
        remove_leftovers(Path(os.path.realpath(run.output)))


def _hash_of(path: Path) -> bytes | None:
    try:
        return read_photo(str(path)).content
    except ImageError:
        return None


def _finish(journal: Journal, run: FolderRun, end: RunEnd, unchanged: bytes) -> None:
    """Write the output from the journal: under its own name if all is done, else as what there is so far."""
    journal.count(ended=not end.interrupted)
    journal.commit()
    if run.gallery is not None and not end.interrupted:
        _write_gallery(journal, run.gallery)
    if run.output is None:
        return
    if end.counts.photos == end.counts.unchanged and journal.is_current(
        run.output, _written_as(run, unchanged)
    ):
        return
    partial = f"{run.output}.partial"
    if not end.interrupted:
        listing = _write_listed(journal, run, run.output)
        journal.note_written(run.output, _written_as(run, listing))
        journal.commit()
        with suppress(OSError):
            os.unlink(partial)
    elif end.counts.photos:
        _write_listed(journal, run, partial)


def _write_gallery(journal: Journal, path: str) -> None:
    from kiloword.runtime.gallery import write_gallery

    rows = (row_of(photo.path, photo.outcome) for photo in journal.listed() if photo.outcome is not None)
    with write_atomically(path, keep_partial=False) as stream:
        write_gallery(stream, rows, os.path.dirname(os.path.abspath(path)))


def _write_listed(journal: Journal, run: FolderRun, path: str) -> bytes:
    """Write all that is known; gives the hash of it that `Recorder.listing` would have."""
    hasher = ListingHash()
    with write_atomically(path, keep_partial=False) as stream:
        writer = make_writer(run.format_name, stream, with_path=run.with_path, mark=run.mark)
        for photo in journal.listed():
            if photo.outcome is not None:
                writer.write(row_of(photo.path, photo.outcome))
                hasher.add(photo.path, photo.content or b"")
    return hasher.digest()


def _written_as(run: FolderRun, listing: bytes) -> bytes:
    return content_hash(f"{run.format_name} {run.with_path} {run.mark} ".encode() + listing)


@contextmanager
def _until_interrupted(stop: Callable[[], None]) -> Iterator[threading.Event]:
    """Let the first Ctrl-C stop gently; what is yielded tells whether there was one."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        stop()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
