"""A file is read once, hashed whole, and told from one that changes meanwhile."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from kiloword import ImageError
from kiloword.runtime import reading
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import ImageSpec
from kiloword.runtime.reading import read_photo

SPEC = ImageSpec(height=12, width=16)


@pytest.mark.parametrize("held_bytes", [reading.HELD_BYTES, 10], ids=["held", "in pieces"])
def test_the_hash_is_that_of_the_whole_file(
    photo: Path, monkeypatch: pytest.MonkeyPatch, held_bytes: int
) -> None:
    """Computed here by hashlib over all bytes; the pixels are those of `load_image`."""
    monkeypatch.setattr(reading, "HELD_BYTES", held_bytes)
    monkeypatch.setattr(reading, "_PIECE_BYTES", 100)
    read = read_photo(str(photo))
    assert read.content == hashlib.blake2b(photo.read_bytes(), digest_size=32).digest()
    assert (read.data is None) == (held_bytes == 10)
    assert np.array_equal(read.decode(SPEC).pixels, load_image(photo, SPEC))


def test_a_large_file_that_changes_before_it_is_decoded(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read twice, for its hash and by the decoder; in between, somebody saves it."""
    monkeypatch.setattr(reading, "HELD_BYTES", 10)
    read = read_photo(str(photo))
    os.utime(photo, ns=(1, 1))
    with pytest.raises(ImageError, match="changes while it is being read"):
        read.decode(SPEC)


def test_what_cannot_be_read_says_why_and_names_the_file(tmp_path: Path) -> None:
    for name, words in (
        ("missing.jpg", "no such file"),
        (".", "is a folder"),
        ("a\0b.jpg", "cannot be read"),
    ):
        with pytest.raises(ImageError, match=words):
            read_photo(str(tmp_path / name))
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: is empty"):
        read_photo(str(tmp_path / "empty.jpg")).decode(SPEC)
