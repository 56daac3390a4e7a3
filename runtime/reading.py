"""Reads a photo's file once: for its hash and for decoding, and notices when it changes meanwhile."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from kiloword.runtime.errors import ImageError
from kiloword.runtime.hashing import content_hash, new_hasher
from kiloword.runtime.images import Photo, load_photo, told_as_image_errors
from kiloword.runtime.shards import PackedPhoto

if TYPE_CHECKING:
    from kiloword.runtime.manifest import ImageSpec

HELD_BYTES = 32 << 20
"""Larger files are hashed piece by piece and read again by the decoder: some would fill the memory."""

_PIECE_BYTES = 1 << 20
_ATTEMPTS = 3
_SETTLE_S = 0.2


@dataclass(frozen=True)
class PhotoFile:
    """A file as it was read."""

    path: str
    content: bytes
    """Hash of its content."""
    stat: os.stat_result | None
    """Its size and time when it had this content; None for what is no ordinary file, such as a pipe."""
    data: bytes | None
    """Its content; None where it is too large to hold."""

    def decode(self, spec: ImageSpec) -> Photo:
        """Decode and resize it, as `load_photo` does.

        Raises:
            ImageError: It is no picture, damaged, or was changed since its hash was taken.
        """
        if self.data is None:
            photo = load_photo(self.path, spec)
            if self.stat is not None and not _same(self.stat, os.stat(self.path)):
                raise _changing(self.path)
            return photo
        try:
            return load_photo(self.data, spec)
        except ImageError as error:
            error.path = error.path or self.path
            raise


def read_photo(path: str) -> PhotoFile:
    """Read a file or a photo in a shard, and hash it; a file that changes meanwhile is read again.

    Raises:
        ImageError: It is missing, cannot be read, or does not stop changing.
    """
    if isinstance(path, PackedPhoto):
        data = path.read()
        return PhotoFile(path, content_hash(data), _stat_of_shard(path), data)
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_SETTLE_S)
        photo = _read_once(path)
        if photo is not None:
            return photo
    raise _changing(path)


def stat_of(path: str) -> os.stat_result:
    """By what it is told whether a photo has changed: its file's size and time, or its shard's.

    Raises:
        OSError: The file is not there.
        ValueError: The path holds a null byte.
    """
    return os.stat(path.shard if isinstance(path, PackedPhoto) else path)


def _stat_of_shard(photo: PackedPhoto) -> os.stat_result | None:
    try:
        return stat_of(photo)
    except OSError:  # it lies behind a URL, or has gone since
        return None


def _read_once(path: str) -> PhotoFile | None:
    """Read a file; None if it changed meanwhile."""
    data: bytes | None
    with told_as_image_errors(path), open(path, "rb") as stream:
        before = os.fstat(stream.fileno())
        if not stat.S_ISREG(before.st_mode):
            # A pipe, as in `kiloword caption <(...)`, gives what it has but once.
            piped = stream.read()
            return PhotoFile(path, content_hash(piped), None, piped)
        data, content = _hash(stream, before.st_size)
        after = os.fstat(stream.fileno())
    return PhotoFile(path, content, after, data) if _same(before, after) else None


def _hash(stream: BinaryIO, size_bytes: int) -> tuple[bytes | None, bytes]:
    if size_bytes <= HELD_BYTES:
        data = stream.read()
        return data, content_hash(data)
    hasher = new_hasher()
    while piece := stream.read(_PIECE_BYTES):
        hasher.update(piece)
    return None, hasher.digest()


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def _changing(path: str) -> ImageError:
    return ImageError(
        "changes while it is being read", path=path, hint="run the command again when it is complete"
    )
