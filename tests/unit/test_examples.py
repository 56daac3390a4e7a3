"""The photos that ship may be redistributed, and each says why."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image


def test_every_photo_has_a_source_and_a_licence(photos: Path) -> None:
    """SOURCES.md has exactly one row for each photo, with the author and a licence that allows everything."""
    page = (photos / "SOURCES.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \|(.*)\|$", page, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(path.name for path in photos.glob("*.jpg"))
    assert len(rows) >= 6
    for name, row in rows:
        _, author, licence, source = (cell.strip() for cell in row.split("|"))
        assert author, name
        assert source, name
        assert licence == "CC0" or licence.startswith("public domain"), name


def test_photos_are_small_and_carry_no_metadata(photos: Path) -> None:
    """Every clone pays for them, and a camera's serial number or a place belongs to nobody else."""
    for path in photos.glob("*.jpg"):
        assert path.stat().st_size < 200_000, path.name
        with Image.open(path) as image:
            assert max(image.size) <= 800, path.name
            assert not image.getexif(), path.name
