"""Takes back what a run wrote: files that nobody changed get their old bytes, others lose only our text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kiloword.runtime.errors import KilowordError
from kiloword.runtime.hashing import content_hash
from kiloword.runtime.jpeg_metadata import is_jpeg, read_xmp, replace_xmp
from kiloword.runtime.photo_files import replace_keeping_stat
from kiloword.runtime.splices import apply_splice
from kiloword.runtime.xmp import EMPTY_PACKET, withdraw_caption
from kiloword.runtime.xmp_sinks import xmp_sidecar_of

if TYPE_CHECKING:
    from kiloword.runtime.journal import Journal
    from kiloword.runtime.journal_outputs import RecordedOutput

Result = Literal["restored", "removed", "withdrawn", "nothing", "kept", "failed"]


@dataclass(frozen=True)
class TakenBack:
    """What became of one file."""

    path: str
    result: Result
    """``restored``: the old bytes; ``removed``: the file was ours alone; ``withdrawn``: our text is out and
    what was changed since is still there; ``nothing``: nothing of ours is in it; ``kept``: it was changed
    since and stays; ``failed``: it could not be written."""
    reason: str = ""
    """Why it was kept or could not be written."""


def undo_run(journal: Journal, run: int, *, dry_run: bool = False) -> Iterator[TakenBack]:
    """Take back what a run wrote, the last first.

    Args:
        journal: Where the run is recorded.
        run: Its number.
        dry_run: Say what would be done, and do nothing.
    """
    for output in list(journal.outputs.of_run(run)):
        taken = _guarded(output.target, partial(_take_back, output, dry_run))
        if not dry_run and taken.result not in ("failed", "kept"):
            journal.outputs.mark(output.id, "undone")
            journal.forget_file(output.target)
            journal.commit()
        yield taken


def undo_marked(photo: str, *, dry_run: bool = False) -> Iterator[TakenBack]:
    """Take our captions out of a photo and of its XMP sidecar, by the marks in them; no journal is needed.

    Yields:
        One result for each file that held something of ours.
    """
    for path, take in ((xmp_sidecar_of(photo), _without_caption), (photo, _jpeg_without_caption)):
        if os.path.isfile(path):
            created = take is _without_caption
            taken = _guarded(path, partial(_edit, path, take, created, dry_run))
            if taken.result != "nothing":
                yield taken


def _guarded(path: str, work: Callable[[], TakenBack]) -> TakenBack:
    try:
        return work()
    except FileNotFoundError:
        return TakenBack(path, "nothing", "it is not there any more")
    except (OSError, KilowordError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return TakenBack(path, "failed", reason)


def _take_back(output: RecordedOutput, dry_run: bool) -> TakenBack:
    data = Path(output.target).read_bytes()
    content = content_hash(data)
    if content == output.content_before:
        return TakenBack(output.target, "nothing")
    if content == output.content_after:
        return _restore(output, data, dry_run)
    if output.kind == "xmp":
        return _edit(output.target, _without_caption, output.content_before is None, dry_run)
    if output.kind == "embed":
        return _edit(output.target, _jpeg_without_caption, False, dry_run)
    return TakenBack(output.target, "kept", "it was changed since")


def _restore(output: RecordedOutput, data: bytes, dry_run: bool) -> TakenBack:
    if output.content_before is None:
        if not dry_run:
            os.unlink(output.target)
        return TakenBack(output.target, "removed")
    if output.undo is None:
        return TakenBack(output.target, "kept", "what it held before was not kept")
    before = apply_splice(data, output.undo)
    if content_hash(before) != output.content_before:
        raise KilowordError("the old content cannot be put together again")
    if not dry_run:
        replace_keeping_stat(output.target, data, before)
    return TakenBack(output.target, "restored")


def _edit(path: str, take: Callable[[bytes], bytes], created: bool, dry_run: bool) -> TakenBack:
    """Take our text out of a file that holds other things, too; remove it if it does not and we made it."""
    data = Path(path).read_bytes()
    rest = take(data)
    if rest == data:
        return TakenBack(path, "nothing")
    if created and rest == EMPTY_PACKET:
        if not dry_run:
            os.unlink(path)
        return TakenBack(path, "removed")
    if not dry_run:
        replace_keeping_stat(path, data, rest)
    return TakenBack(path, "withdrawn")


def _without_caption(packet: bytes) -> bytes:
    return withdraw_caption(packet)


def _jpeg_without_caption(data: bytes) -> bytes:
    packet = read_xmp(data) if is_jpeg(data) else None
    if packet is None:
        return data
    rest = withdraw_caption(packet)
    return data if rest == packet else replace_xmp(data, None if rest == EMPTY_PACKET else rest)
