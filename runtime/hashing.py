"""The hash by which a content is known; apart from the journal, whose SQLite not every run needs to load."""

from __future__ import annotations

import hashlib

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
