"""A folder of pictures as a video. Pictures are written by Pillow in one colour each."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from kiloword.runtime.errors import CameraError
from kiloword.runtime.slides import PictureFolder, read_picture


def make_pictures(folder: Path) -> None:
    for number, name in enumerate(("b.png", "a.jpg", "c/d.png")):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 20), (60 * number, 0, 0)).save(folder / name)


def test_pictures_come_in_order_at_their_times(tmp_path: Path) -> None:
    """a.jpg, b.png, then the folder c; red is the last channel."""
    make_pictures(tmp_path)
    source = PictureFolder(str(tmp_path), 1.5)
    seen = []
    while (at_s := source.grab()) is not None:
        pixels = source.retrieve()
        assert pixels is not None
        assert pixels.shape == (20, 40, 3)
        seen.append((at_s, round(int(pixels[0, 0, 2]), -1)))
    assert seen == [(0.0, 60), (1.5, 0), (3.0, 120)]
    assert source.recorded
    assert source.reopen().grab() == 0.0


def test_what_is_no_picture_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_pictures(tmp_path)
    (tmp_path / "aa.jpg").write_text("no picture")
    with caplog.at_level(logging.WARNING, "kiloword"):
        source = PictureFolder(str(tmp_path))
        frames = 0
        while source.grab() is not None:
            frames += 1
    assert frames == 3
    (record,) = caplog.records
    assert "aa.jpg" in record.getMessage()


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="no picture in this folder"):
        PictureFolder(str(tmp_path))


def test_pictures_are_upright_and_no_larger_than_a_screen(tmp_path: Path) -> None:
    """EXIF orientation 6: the camera was turned; 3000 x 2000 lies, so 1280 high and 853 wide stands."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (3000, 2000), "blue").save(tmp_path / "a.jpg", exif=exif)
    pixels = read_picture(str(tmp_path / "a.jpg"))
    assert pixels.shape == (1280, 853, 3)
    assert pixels.flags["C_CONTIGUOUS"]
