"""The difference between two versions of a file, small enough to be kept for taking a change back."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from kiloword.runtime.errors import KilowordError

_HEAD = struct.Struct(">QQ")


def make_splice(before: bytes, after: bytes) -> bytes:
    """What turns `after` back into `before`: the bytes in which they differ, from the first to the last.

    >>> apply_splice(b"a new end", make_splice(b"an end", b"a new end"))
    b'an end'
    """
    start = _common_length(before, after)
    most = min(len(before), len(after)) - start
    behind = _common_length(before[::-1][:most], after[::-1][:most])
    old = before[start : len(before) - behind]
    return _HEAD.pack(start, len(after) - start - behind) + zlib.compress(old)


def _common_length(one: bytes, other: bytes) -> int:
    """How many bytes are the same from the start on."""
    length = min(len(one), len(other))
    differs = np.frombuffer(one, np.uint8, length) != np.frombuffer(other, np.uint8, length)
    return int(differs.argmax()) if differs.any() else length


def apply_splice(after: bytes, splice: bytes) -> bytes:
    """Take a change back.

    Raises:
        KilowordError: The splice is damaged.
    """
    try:
        start, length = _HEAD.unpack_from(splice)
        old = zlib.decompress(splice[_HEAD.size :])
    except (struct.error, zlib.error) as error:
        raise KilowordError("what was kept for taking this back is damaged", found=str(error)) from error
    return after[:start] + old + after[start + length :]
