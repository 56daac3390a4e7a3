"""RAW files: the preview is found, turned as the camera was, and nothing else in the file is trusted."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from kiloword import ImageError
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import ImageSpec
from kiloword.runtime.raw import read_raw
from tests import hostile

SPEC = ImageSpec(height=24, width=32)


@pytest.mark.parametrize("suffix", hostile.RAW_SUFFIXES)
def test_the_preview_is_what_is_seen(suffix: str) -> None:
    """The pixels are those of the JPEG that was put in, turned a quarter where the RAW file says so."""
    preview = Image.open(io.BytesIO(hostile.jpeg(hostile.scene(320, 240))))
    upright = preview if suffix == "raf" else preview.transpose(Image.Transpose.ROTATE_270)
    expected = load_image(np.asarray(upright), SPEC).astype(float)
    found = load_image(hostile.raw_file(suffix), SPEC)
    assert np.abs(found - expected).mean() < 4  # the preview is decoded at a fraction


def test_a_preview_that_knows_how_it_was_held_is_believed() -> None:
    """Fujifilm's have EXIF data of their own."""
    exif = Image.Exif()
    exif[0x0112] = 3
    own = hostile.jpeg(hostile.scene(320, 240), exif=exif)
    data = hostile.tiff_by_hand(
        "<", [[(0xC612, 1, [1]), (0x0112, 3, [6]), (0x0201, 4, [4096]), (0x0202, 4, [len(own)])]], own
    )
    expected = load_image(own, SPEC)
    np.testing.assert_array_equal(load_image(data, SPEC), expected)


def test_the_largest_preview_that_is_a_picture_is_taken() -> None:
    """Canon's sensor data is JPEG of 14 bits, larger than any preview, and no picture."""
    small, large = hostile.jpeg(hostile.scene(160, 120)), hostile.jpeg(hostile.scene(320, 240))
    sensor = bytearray(hostile.jpeg(hostile.scene(800, 600)))
    sensor[sensor.index(b"\xff\xc0") + 4] = 14
    places, data = [], b""
    for jpeg in (small, large, bytes(sensor)):
        places.append([(0x0201, 4, [4096 + len(data)]), (0x0202, 4, [len(jpeg)])])
        data += jpeg
    file = hostile.tiff_by_hand("<", places, data, magic=b"CR\2\0")
    np.testing.assert_array_equal(load_image(file, SPEC), load_image(large, SPEC))


def test_an_ordinary_tiff_is_none() -> None:
    assert read_raw(io.BytesIO(hostile.encoded(hostile.scene(), "TIFF"))) is None
    assert read_raw(io.BytesIO(hostile.encoded(hostile.scene(), "TIFF", compression="jpeg"))) is None
    assert read_raw(io.BytesIO(b"")) is None


def test_a_jpeg_beyond_the_end_is_no_preview() -> None:
    data = hostile.raw_file("cr2")
    with pytest.raises(ImageError, match="RAW file without a preview"):
        load_image(data[:-100], SPEC)


def test_damaged_raw_files_end_in_an_image_error_or_pixels() -> None:
    """2,000 damaged directories, in a moment: loops and lies in them are bounded."""
    chance = random.Random(1)
    files = [bytearray(hostile.raw_file(suffix)) for suffix in hostile.RAW_SUFFIXES]
    for _ in range(2000):
        data = bytearray(chance.choice(files))
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(700)] = chance.choice((0, 1, 64, 255))
        read_raw(io.BytesIO(data))
