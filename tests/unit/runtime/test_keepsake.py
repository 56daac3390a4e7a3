"""The photo that the key s saves, read back by Pillow."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kiloword.runtime import keepsake
from kiloword.runtime.captions import NO_DESCRIPTION
from kiloword.runtime.keepsake import save_photo
from tests.sources import frame, live_caption

RED = np.full((40, 60, 3), (0, 0, 255), dtype=np.uint8)  # blue first


def test_the_photo_carries_its_caption(tmp_path: Path) -> None:
    said = save_photo(frame(RED), live_caption("a red café"), tmp_path)
    (photo,) = tmp_path.glob("*.jpg")
    assert said == f"saved {photo}"
    with Image.open(photo) as image:
        assert image.size == (60, 40)
        assert image.getexif()[0x010E].encode("latin-1").decode("utf-8") == "a red café"
        red, green, blue = image.getpixel((5, 5))  # type: ignore[misc]
    assert red > 245 > 20 > max(green, blue)
    assert photo.with_suffix(".txt").read_text(encoding="utf-8") == "a red café\n"


def test_before_the_first_caption_there_is_the_photo_alone(tmp_path: Path) -> None:
    save_photo(frame(RED), None, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".jpg"]


def test_what_is_no_description_is_not_written_as_one(tmp_path: Path) -> None:
    save_photo(frame(RED), live_caption(NO_DESCRIPTION), tmp_path)
    (photo,) = tmp_path.iterdir()
    with Image.open(photo) as image:
        assert 0x010E not in image.getexif()


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three in one second, and a text that lies there already."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Stopped:
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(keepsake, "datetime", Stopped)
    (tmp_path / "kiloword-20260102-030405-2.txt").write_text("mine")
    for _ in range(3):
        save_photo(frame(RED), live_caption("a dog"), tmp_path)
    names = sorted(path.name for path in tmp_path.glob("*.jpg"))
    stem = "kiloword-20260102-030405"
    assert names == [f"{stem}-3.jpg", f"{stem}-4.jpg", f"{stem}.jpg"]
    assert (tmp_path / f"{stem}-2.txt").read_text() == "mine"


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_photo(frame(RED), None, tmp_path / "nowhere")
