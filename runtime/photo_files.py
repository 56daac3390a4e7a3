"""Replacing somebody's file: whole at any moment, with its rights and times, unless it changed meanwhile."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from kiloword.runtime.outputs import TEMPORARY_SUFFIX, sync_folder, temporary_prefix


def replace_keeping_stat(path: str, before: bytes, content: bytes) -> None:
    """Put a new content in a file's place; its rights, extended attributes and times stay.

    The time of change stays, too: for many photos it is the only date they have. Programs that make copies
    see the other size.

    Args:
        path: The file; a link is followed, so that the link stays one.
        before: What the file held when `content` was made from it.
        content: What it shall hold.

    Raises:
        OSError: The folder cannot be written, the disk is full, or the file changed since it was read; its
            content is what it was.
    """
    target = Path(os.path.realpath(path))
    handle, name = tempfile.mkstemp(
        prefix=temporary_prefix(target), suffix=TEMPORARY_SUFFIX, dir=target.parent
    )
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        _copy_stat(target, temporary)
        if target.read_bytes() != before:
            raise OSError(None, "it changed while it was being written", str(target))
        temporary.replace(target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_stat(source: Path, target: Path) -> None:
    shutil.copystat(source, target)
    stat = source.stat()
    if hasattr(os, "chown"):
        with suppress(OSError):  # only root may give files away
            os.chown(target, stat.st_uid, stat.st_gid)
