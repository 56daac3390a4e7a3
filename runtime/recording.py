"""Puts captions where they belong as they come: journal, sidecars, output, and for what failed the log."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kiloword.runtime.errors import KilowordError
from kiloword.runtime.hashing import ListingHash
from kiloword.runtime.outputs import RowWriter
from kiloword.runtime.progress import CaptionProgress
from kiloword.runtime.sinks import LeftAlone, PlannedWrite, Sink

if TYPE_CHECKING:
    from kiloword.runtime.captioner import Caption
    from kiloword.runtime.journal import Journal
    from kiloword.runtime.results import Done

_log = logging.getLogger(__name__)
_NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@dataclass
class Counts:
    """How a run went."""

    photos: int = 0
    """All that were looked at."""
    captioned: int = 0
    """Those that went through the model."""
    known: int = 0
    """Those that were done before, wherever they lay then, and copies of others."""
    failed: int = 0
    """Those without a caption, or whose caption could not be written beside them."""
    failed_before: int = 0
    """Those of them that failed in an earlier run and were not tried again."""
    unchanged: int = 0
    """Those that were not even opened, since the journal knew them by size and time."""


class Recorder:
    """Records results as they come; failures are logged as errors and stop nothing.

    Args:
        journal: Where all is remembered; None: nowhere.
        sinks: Where captions go beside the photos.
        progress: What people see meanwhile.
    """

    def __init__(self, journal: Journal | None, sinks: Sequence[Sink], progress: CaptionProgress) -> None:
        self.counts = Counts()
        self._listing = ListingHash()
        self._journal = journal
        self._sinks = sinks
        self._progress = progress

    def record(self, results: Iterable[Done]) -> None:
        """Record some results: first in the journal, durably, and then beside the photos.

        Raises:
            JournalError: The journal cannot be written.
        """
        results = list(results)
        planned = [
            (done, output_id, write)
            for done in results
            if self._remember(done)
            for output_id, write in self._plan(done)
        ]
        self._count(results)
        if self._journal is not None:
            self._journal.commit()
        for done, output_id, write in planned:
            self._write(done, output_id, write)

    @property
    def listing(self) -> bytes:
        """Hash of the names and contents of all photos that were unchanged, in the order they came."""
        return self._listing.digest()

    def _remember(self, done: Done) -> bool:
        """Note an outcome; False if there is no caption."""
        if self._journal is not None and not done.known and done.content is not None:
            if done.stat is not None:
                self._journal.record_file(done.path, done.stat, done.content)
            if done.fresh:
                self._journal.record_outcome(done.content, done.outcome)
        if not done.known:
            self._log_problems(done)
        return done.outcome.caption is not None

    def _log_problems(self, done: Done) -> None:
        row = done.row()
        warnings = row.caption.warnings if row.caption else ()
        if not warnings and row.error is None:
            return
        with self._progress.aside():
            for warning in warnings:
                _log.warning("%s: %s", row.path, warning)
            if row.error is not None:
                _log.error("%s", row.error)

    def _count(self, results: Sequence[Done]) -> None:
        counts = self.counts
        failed = sum(done.outcome.error is not None for done in results)
        captioned = sum(done.fresh and done.outcome.caption is not None for done in results)
        counts.photos += len(results)
        for done in results:
            if done.known and done.content is not None:
                counts.unchanged += 1
                self._listing.add(done.path, done.content)
        counts.failed += failed
        counts.failed_before += sum(done.outcome.error is not None and done.earlier for done in results)
        counts.captioned += captioned
        counts.known += sum(not done.fresh for done in results)
        if self._journal is not None and any(not done.known for done in results):
            self._journal.count(captioned=captioned, failed=failed)
        for done in results:
            self._progress.advance(done.path, failed=done.outcome.error is not None, fresh=done.fresh)

    # Beside the photos

    def _plan(self, done: Done) -> list[tuple[int, PlannedWrite]]:
        """What is to be written for a photo, known to the journal."""
        caption = done.outcome.caption
        if caption is None:
            return []
        if not caption.reliable:  # a wrong description beside a photo is worse than none
            if self._sinks:
                _log.info("%s: not written beside it: %s", done.path, caption.reason)
            return []
        planned = []
        for sink in self._sinks:
            if done.known and self._written_before(done.path, sink, caption):
                continue
            write = self._ask(sink, done, caption)
            if write is not None:
                planned.append((self._note_plan(done, sink, caption, write), write))
        return planned

    def _written_before(self, path: str, sink: Sink, caption: Caption) -> bool:
        latest = None if self._journal is None else self._journal.outputs.latest(path, sink.kind)
        return (
            latest is not None
            and latest.state == "written"
            and latest.text == caption.text
            and os.path.lexists(latest.target)
        )

    def _ask(self, sink: Sink, done: Done, caption: Caption) -> PlannedWrite | None:
        journal = self._journal

        def ours(target: str, content: bytes) -> bool:
            return journal is not None and journal.outputs.wrote(done.path, target, content, done.content)

        try:
            plan = sink.plan(done.path, caption, ours)
        except OSError as error:
            self._sink_failed(done.path, error)
            return None
        if isinstance(plan, LeftAlone):
            with self._progress.aside():
                _log.warning("%s", plan.reason)
            return None
        return plan

    def _note_plan(self, done: Done, sink: Sink, caption: Caption, write: PlannedWrite) -> int:
        if self._journal is None:
            return 0
        if _same_file(write.target, done.path):
            # The photo's content is about to change; its caption stays true.
            self._journal.record_outcome(write.after, done.outcome)
        return self._journal.outputs.plan(
            done.path,
            write.target,
            sink.kind,
            caption.text,
            before=write.before,
            after=write.after,
            undo=write.undo,
        )

    def _write(self, done: Done, output_id: int, write: PlannedWrite) -> None:
        try:
            write.write()
        except FileExistsError:
            with self._progress.aside():
                _log.warning("%s: left as it was: it appeared while the photo was captioned", write.target)
            self._mark(output_id, written=False)
        except OSError as error:
            self._sink_failed(write.target, error)
            self._mark(output_id, written=False)
            if error.errno in _NO_ROOM:
                raise self._no_room(write.target) from error
        else:
            self._mark(output_id, written=True)
            if self._journal is not None and _same_file(write.target, done.path):
                self._journal.record_file(done.path, os.stat(done.path), write.after)

    def _mark(self, output_id: int, *, written: bool) -> None:
        if self._journal is not None:
            self._journal.outputs.mark(output_id, "written" if written else "failed")

    def _no_room(self, target: str) -> KilowordError:
        """The same line for each photo that is left would help nobody."""
        if self._journal is not None:
            self._journal.commit()
        message = "the disk is full; all that was done until now is kept"
        return KilowordError(message, path=target, hint="make room and run the same command again")

    def _sink_failed(self, path: str, error: OSError) -> None:
        self.counts.failed += 1
        with self._progress.aside():
            _log.error("%s: the caption cannot be written there: %s", path, error.strerror or error)


class OrderedWriter:
    """Writes results to an output in the order of the photos, as soon as none before them is missing.

    Args:
        writer: Where they go.
        progress: Steps aside meanwhile.
    """

    def __init__(self, writer: RowWriter, progress: CaptionProgress) -> None:
        from kiloword.runtime.results import InOrder

        self._in_order = InOrder()
        self._writer = writer
        self._progress = progress

    @property
    def position(self) -> int:
        """Of the first photo that is missing."""
        return self._in_order.position

    def write(self, results: Iterable[Done]) -> None:
        """Write what can be written now; the rest is kept."""
        self._write(self._in_order.take(results))

    def write_rest(self) -> None:
        """At an early end, write what is there behind the gaps."""
        self._write(self._in_order.rest())

    def _write(self, results: Sequence[Done]) -> None:
        if results:
            with self._progress.aside():
                for done in results:
                    self._writer.write(done.row())


def _same_file(target: str, photo: str) -> bool:
    return os.path.abspath(target) == os.path.abspath(photo)
