"""Puts captions where they belong as they come: the output, the sidecars, and for what failed the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from kiloword.runtime.outputs import CaptionRow, RowWriter, write_sidecar
from kiloword.runtime.progress import CaptionProgress

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recorded:
    """How a run went."""

    photos: int
    """All that were looked at."""
    failed: int
    """Those without a caption, or whose sidecar could not be written."""


def record_rows(
    rows: Iterable[CaptionRow], writer: RowWriter, progress: CaptionProgress, *, sidecars: bool = False
) -> Recorded:
    """Write each row as it comes; failures are logged as errors and stop nothing.

    Args:
        rows: What `caption_photos` yields.
        writer: Where they go.
        progress: Steps aside while something is written.
        sidecars: Whether each caption also goes to a txt file beside its photo.

    Raises:
        OSError: The output cannot be written to.
    """
    photos, failed = 0, 0
    for row in rows:
        with progress.aside():
            writer.write(row)
            well = _log_failure(row) and (not sidecars or _record_sidecar(row))
        photos, failed = photos + 1, failed + (not well)
        progress.advance(failed=not well)
    return Recorded(photos, failed)


def _log_failure(row: CaptionRow) -> bool:
    for warning in row.caption.warnings if row.caption else ():
        _log.warning("%s: %s", row.path, warning)
    if row.error is not None:
        _log.error("%s", row.error)
    return row.error is None


def _record_sidecar(row: CaptionRow) -> bool:
    if row.caption is None:
        return False
    if not row.caption.reliable:  # a wrong description beside a photo is worse than none
        _log.info("%s: no sidecar: %s", row.path, row.caption.reason)
        return True
    try:
        left_alone = write_sidecar(row.path, row.caption.text)
    except OSError as error:
        _log.error("%s: the sidecar cannot be written: %s", error.filename or row.path, error.strerror)
        return False
    if left_alone:
        _log.warning("%s", left_alone)
    return True
