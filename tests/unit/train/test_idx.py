"""The IDX reader, on files written byte by byte as MNIST's page describes them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from kiloword.runtime.errors import ConfigError
from kiloword.train.idx import read_idx

PICTURES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_an_array_comes_back(tmp_path: Path, packed: bool) -> None:
    """What is packed is seen from the content: mirrors rename files."""
    content = idx_bytes(PICTURES)
    (tmp_path / "images").write_bytes(gzip.compress(content, mtime=0) if packed else content)
    found = read_idx(tmp_path / "images", dimensions=3)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, PICTURES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file: it begins with nothing"),
        (b"<htm", "not an IDX file: it begins with 3c 68 74 6d"),
        (b"\0\0\x0d\x03" + bytes(24), r"expected 3 axes of bytes \(00 00 08 03\), found 00 00 0d 03"),
        (b"\0\0\x08\x01\0\0\0\0", r"expected 3 axes of bytes .* found 00 00 08 01"),
        (b"\0\0\x08\x03\0\0", "cut off in its header, after 6 bytes"),
        (idx_bytes(PICTURES)[:-1], r"expected 24 bytes \(2 x 3 x 4\) after the header, found 23.*copy"),
        (idx_bytes(PICTURES) + b"\0", "expected 24 bytes .* found 25"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "expected .* bytes .* found 0"),
        (gzip.compress(idx_bytes(PICTURES), mtime=0)[:-9], "cannot be read"),
        (b"\x1f\x8bnothing", "cannot be read"),
    ],
)
def test_other_files_are_refused_with_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"images: {message}"):
        read_idx(tmp_path / "images", dimensions=3)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_idx(tmp_path / "nothing", dimensions=1)
