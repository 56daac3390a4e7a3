"""The hash by which a content is known; apart from the journal, whose SQLite not every run needs to load."""

from __future__ import annotations

import hashlib
import os

_HASH_BYTES = 32


def content_hash(data: bytes) -> bytes:
    """Hash a content: 32 bytes of BLAKE2b, which takes half the time of SHA-256 without special instructions.

    >>> content_hash(b"").hex()[:8]
    '0e5751c0'
    """
    return hashlib.blake2b(data, digest_size=_HASH_BYTES).digest()


def new_hasher() -> hashlib.blake2b:
    """What computes `content_hash` piece by piece."""
    return hashlib.blake2b(digest_size=_HASH_BYTES)


class ListingHash:
    """The hash of a list of photos: their names and contents, in order."""

    def __init__(self) -> None:
        self._hasher = new_hasher()

    def add(self, path: str, content: bytes) -> None:
        """Add a photo by its name and the hash of its content."""
        self._hasher.update(b"%b\0%b" % (os.fsencode(path), content))

    def digest(self) -> bytes:
        """The hash of all so far."""
        return self._hasher.digest()
