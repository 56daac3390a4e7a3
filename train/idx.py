"""The IDX format of MNIST: a few bytes of header, then one array of bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kiloword.runtime.errors import ConfigError

_UINT8 = 0x08
_MOST_BYTES = 2**31


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Reads an IDX file of bytes, packed with gzip or not.

    Args:
        path: such as ``train-images-idx3-ubyte.gz``.
        dimensions: how many axes the array must have.

    Returns:
        The array, of any size along its axes.

    Raises:
        ConfigError: the file cannot be read, is no IDX file, holds something else than bytes, has another
            number of axes, or is shorter or longer than its header says.
    """
    content = _content(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ConfigError([f"not an IDX file: it begins with {content[:4].hex(' ') or 'nothing'}"], path=path)
    kind, axes = content[2], content[3]
    if kind != _UINT8 or axes != dimensions:
        expected = f"expected {dimensions} axes of bytes (00 00 08 {dimensions:02x})"
        raise ConfigError([f"{expected}, found {content[:4].hex(' ')}"], path=path)
    start = 4 + 4 * axes
    if len(content) < start:
        raise ConfigError([f"cut off in its header, after {len(content)} bytes"], path=path)
    shape = struct.unpack(f">{axes}I", content[4:start])
    if len(content) - start != math.prod(shape):
        sizes = " x ".join(map(str, shape))
        found = f"expected {math.prod(shape)} bytes ({sizes}) after the header, found {len(content) - start}"
        raise ConfigError([found], path=path, hint="copy the file again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    """The file's bytes, unpacked where they are packed; what is packed decides, not the name."""
    try:
        raw = path.read_bytes()
        if raw[:2] != b"\x1f\x8b":
            return raw
        with gzip.open(path) as stream:
            content = stream.read(_MOST_BYTES)  # a few kilobytes can unpack to terabytes
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError([f"cannot be read: {error}"], path=path) from error
    return content
