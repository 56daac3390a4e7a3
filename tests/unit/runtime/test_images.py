"""Pictures as people have them: every orientation, mode and kind of damage."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kiloword import ImageError
from kiloword.runtime import images
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import ImageSpec

SPEC = ImageSpec(height=12, width=16)
EXACT = ImageSpec(height=48, width=64, resample="box")  # the size of the pictures made here: no resampling


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def scene() -> NDArray[np.uint8]:
    """48 x 64 with no symmetry at all."""
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([4 * columns, 5 * rows, rows + columns], axis=2).astype(np.uint8)


# How a camera in each orientation stores an upright scene. Source: Exif 2.32, tag 0x0112, which names the
# side of the scene that the first stored row and the first stored column show.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright[::-1].swapaxes(0, 1),
}


def with_orientation(orientation: int, upright: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    return encoded(Image.fromarray(stored), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    """The upright scene comes back, pixel by pixel, from lossless files."""
    options = {"lossless": True} if kind == "WEBP" else {}
    data = with_orientation(orientation, scene(), kind, **options)
    np.testing.assert_array_equal(load_image(data, EXACT), scene())


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("resize", ["stretch", "shortest_edge_center_crop"])
def test_large_jpeg_in_every_orientation(
    orientation: int, resize: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding at a fraction changes little against decoding all, and is at least twice the target."""
    large = np.asarray(Image.fromarray(scene()).resize((1237, 931), Image.Resampling.BICUBIC))
    spec = ImageSpec(96, 112, resize, None if resize == "stretch" else 120)
    data = with_orientation(orientation, large, "JPEG", quality=95)
    decoded_sizes = []

    def spy(image: Image.Image, *rest: Any) -> NDArray[np.uint8]:
        decoded_sizes.append(sorted(image.size))
        return original(image, *rest)

    original = images._to_pixels
    monkeypatch.setattr(images, "_to_pixels", spy)
    found = load_image(data, spec).astype(float)
    expected = load_image(large, spec).astype(float)
    psnr = 10 * np.log10(255**2 / np.mean((found - expected) ** 2))
    assert psnr > 40
    assert decoded_sizes[0] == ([233, 310] if resize == "stretch" else [466, 619])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so, and goes on
def test_broken_exif_is_no_reason_to_fail() -> None:
    """The picture itself is whole; it is taken as upright."""
    data = encoded(Image.fromarray(scene()), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert load_image(data, SPEC).shape == (12, 16, 3)


GREEN_ON_WHITE = {
    "opaque": (0, 255, 0),
    "half": (127, 255, 127),
    "nothing": (255, 255, 255),
}


@pytest.mark.parametrize(("alpha", "name"), [(255, "opaque"), (128, "half"), (0, "nothing")])
@pytest.mark.parametrize("mode", ["RGBA", "RGBa"])
def test_alpha_lies_over_white(alpha: int, name: str, mode: str) -> None:
    """By hand: alpha * colour + (1 - alpha) * white."""
    image = Image.new("RGBA", (8, 8), (0, 255, 0, alpha)).convert(mode)
    np.testing.assert_allclose(load_image(image, SPEC)[3, 3], GREEN_ON_WHITE[name], atol=1)


def grey_with_alpha(mode: str) -> Image.Image:
    return Image.new("LA", (8, 8), (0, 0)).convert(mode)


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    if transparent:
        image.info["transparency"] = 1
    return image


MODES = {
    "1": (Image.new("1", (8, 8), 1), (255, 255, 255)),
    "L": (Image.new("L", (8, 8), 77), (77, 77, 77)),
    "LA": (grey_with_alpha("LA"), (255, 255, 255)),
    "La": (grey_with_alpha("La"), (255, 255, 255)),
    "P": (palette(False), (10, 20, 30)),
    "P transparent": (palette(True), (255, 255, 255)),
    "PA": (Image.new("RGBA", (8, 8), (9, 9, 9, 0)).convert("PA"), (255, 255, 255)),
    "RGB": (Image.new("RGB", (8, 8), (1, 2, 3)), (1, 2, 3)),
    "RGBX": (Image.new("RGBX", (8, 8), (1, 2, 3, 0)), (1, 2, 3)),
    "CMYK": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), (255, 0, 0)),
    "YCbCr": (Image.new("YCbCr", (8, 8), (128, 128, 128)), (128, 128, 128)),
    "HSV": (Image.new("HSV", (8, 8), (0, 0, 200)), (200, 200, 200)),
    "I;16": (Image.new("I;16", (8, 8), 65535), (255, 255, 255)),
    "I;16 dark": (Image.new("I;16", (8, 8), 257), (1, 1, 1)),
    "I;16B": (Image.fromarray(np.full((8, 8), 32896, dtype=">u2")), (128, 128, 128)),
    "I of 8 bits": (Image.new("I", (8, 8), 200), (200, 200, 200)),
    "I of 16 bits": (Image.new("I", (8, 8), 51400), (200, 200, 200)),
    "F of 0..1": (Image.new("F", (8, 8), 0.5), (128, 128, 128)),
    "F of 0..255": (Image.new("F", (8, 8), 200.0), (200, 200, 200)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(name: str) -> None:
    """One colour in, the same colour out; expected values by hand."""
    image, expected = MODES[name]
    found = load_image(image, SPEC)
    assert found.shape == (12, 16, 3)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found[5, 5], expected, atol=1)


def test_elevations_use_their_own_range() -> None:
    """Floats that no usual white covers run from black to white."""
    values = np.linspace(-500, 8000, 64 * 48, dtype=np.float32).reshape(48, 64)
    values[0, 1] = np.nan
    found = load_image(Image.fromarray(values), EXACT)
    assert (found[0, 0, 0], found[-1, -1, 0]) == (0, 255)


def test_the_largest_floats_use_their_own_range() -> None:
    """The difference of the smallest and the largest is no float of 32 bits."""
    values = np.full((48, 64), np.finfo(np.float32).min)
    values[24:] = np.finfo(np.float32).max
    found = load_image(Image.fromarray(values), EXACT)
    assert (found[0, 0, 0], found[-1, -1, 0]) == (0, 255)


@pytest.mark.parametrize(
    ("kind", "mode", "tolerance"),
    [
        *[("PNG", mode, 0) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")],
        *[("JPEG", mode, 12) for mode in ("RGB", "L", "CMYK")],
        *[("TIFF", mode, 1) for mode in ("RGB", "CMYK", "L", "F")],
        ("GIF", "P", 0),
        ("BMP", "RGB", 0),
        ("WEBP", "RGBA", 12),
    ],
)
def test_files_of_every_format(tmp_path: Path, kind: str, mode: str, tolerance: int) -> None:
    """Reading a file equals converting the picture by Pillow before it was saved."""
    image = Image.fromarray(scene()).convert(mode)
    path = tmp_path / f"ä {mode}.{kind.lower()}"
    image.save(path, kind)
    expected = np.asarray(image.convert("RGB"), dtype=int)
    assert np.abs(load_image(path, EXACT) - expected).mean() <= tolerance


def test_16_bit_png() -> None:
    """A grey ramp of 16 bits is the ramp of 8 bits, not saturated white."""
    ramp = np.tile(np.arange(64, dtype=np.uint16) * 1028, (48, 1))
    found = load_image(encoded(Image.fromarray(ramp), "PNG"), EXACT)
    np.testing.assert_array_equal(found[10, :, 1], np.arange(64) * 4)


def test_animation_gives_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data, SPEC)[0, 0].tolist() == [255, 0, 0]


def test_all_sources_agree(tmp_path: Path) -> None:
    """Path, text, bytes, PIL image and array of one picture give the same pixels."""
    path = tmp_path / "a.png"
    Image.fromarray(scene()).save(path)
    found = [load_image(source, SPEC) for source in (path, str(path), path.read_bytes(), scene())]
    with Image.open(path) as image:
        found.append(load_image(image, SPEC))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    assert found[0].flags.c_contiguous


def test_a_given_pil_image_is_left_as_it_was() -> None:
    """`draft` would shrink the caller's own image."""
    with Image.open(io.BytesIO(encoded(Image.new("RGB", (640, 480)), "JPEG"))) as image:
        load_image(image, SPEC)
        assert image.size == (640, 480)


@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 4)])
def test_grey_and_rgba_arrays(shape: tuple[int, ...]) -> None:
    assert load_image(np.full(shape, 255, dtype=np.uint8), SPEC).min() == 255


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1000, 500), (256, 128)), ((333, 500), (128, 192)), ((500, 333), (192, 128)), ((128, 128), (128, 128))],
)
def test_shortest_edge_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """int(shortest_edge * long / short), as torchvision and transformers do: 128 * 500 / 333 = 192.19."""
    spec = ImageSpec(112, 112, "shortest_edge_center_crop", 128)
    assert images._resized_size(size, spec) == expected


def test_center_crop_equals_pillow() -> None:
    """Resize the shortest edge to 36, cut 32 x 32 from the middle: by Pillow, step by step."""
    resized = Image.fromarray(scene()).resize((48, 36), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((8, 2, 40, 34)))
    spec = ImageSpec(32, 32, "shortest_edge_center_crop", 36, "bilinear")
    np.testing.assert_array_equal(load_image(scene(), spec), expected)


def test_a_hair_is_as_wide_as_the_spec_says() -> None:
    """Extreme proportions stretch and crop like any others."""
    hair = np.zeros((2000, 1, 3), dtype=np.uint8)
    assert load_image(hair, SPEC).shape == (12, 16, 3)
    assert load_image(hair, ImageSpec(8, 8, "shortest_edge_center_crop", 8)).shape == (8, 8, 3)


def failure(source: Any, **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        load_image(source, SPEC, **options)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(("kind", "keep"), [("JPEG", 0.6), ("PNG", 0.6), ("JPEG", 0.95)])
def test_truncated_file_says_so(tmp_path: Path, kind: str, keep: float) -> None:
    """A copy that broke off is not captioned by its grey half."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    path = tmp_path / f"half.{kind.lower()}"
    path.write_bytes(whole[: int(keep * len(whole))])
    message = str(failure(path))
    assert message.startswith(f"{path}: is truncated; expected a whole picture")
    assert "copy it again" in message


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("kind", "keep"), [("JPEG", 0.6), ("PNG", 0.6), ("JPEG", 0.98)])
def test_what_can_be_read_of_a_truncated_file(kind: str, keep: float, orientation: int) -> None:
    """The pixels are those of the upper part alone, cut off by hand; turning works as ever."""
    noise = np.random.default_rng(0).integers(0, 256, (80, 64, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise).resize((512, 640), Image.Resampling.BICUBIC))
    exif = Image.Exif()
    exif[0x0112] = orientation
    whole = encoded(Image.fromarray(smooth), kind, exif=exif)
    photo = images.load_photo(whole[: int(keep * len(whole))], SPEC)
    (warning,) = photo.warnings
    found = re.fullmatch(r"is truncated; the caption describes the (\d+)% that can be read", warning)
    assert found is not None
    share = int(found[1]) / 100
    assert abs(share - keep) < 0.1
    expected = smooth[: round(share * len(smooth))]
    upright = np.rot90(expected, -1) if orientation == 6 else expected
    difference = photo.pixels.astype(float) - load_image(np.ascontiguousarray(upright), SPEC)
    assert np.abs(difference).mean() < 6


def test_too_little_of_a_truncated_file() -> None:
    whole = encoded(Image.fromarray(np.asarray(Image.fromarray(scene()).resize((640, 480)))), "JPEG")
    with pytest.raises(ImageError, match="is truncated"):
        images.load_photo(whole[: len(whole) // 8], SPEC)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_in_the_header(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "stub.jpg"
    path.write_bytes(encoded(Image.fromarray(scene()), kind)[:14])
    assert str(failure(path)) == f"{path}: is a {kind} truncated or damaged in its header; found 14 bytes"


def test_damaged_data() -> None:
    """Whole in length, broken inside."""
    data = bytearray(encoded(Image.fromarray(scene()), "PNG"))
    data[41:45] = b"\xff\xff\xff\xff"  # where the compressed pixels begin
    assert "cannot be decoded" in str(failure(bytes(data)))


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    assert "is empty; expected a picture, found 0 bytes" in str(failure(path))
    assert "is empty" in str(failure(b""))


def test_text_called_jpg(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("Dear diary, today I took no photo.", encoding="utf-8")
    message = str(failure(path))
    assert message.startswith(f"{path}: is not a picture; expected JPEG, PNG")
    assert "found 34 bytes that begin with b'Dear dia'" in message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert str(failure(tmp_path / "no.jpg")) == f"{tmp_path / 'no.jpg'}: there is no such file"
    assert f"Try: kiloword caption {tmp_path}" in str(failure(tmp_path))
    assert "cannot be read" in str(failure("a\0b.jpg"))


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd on this system")
def test_pipe() -> None:
    """`kiloword caption <(unzip -p album.zip a.jpg)` names a pipe, which cannot seek."""
    for data in (encoded(Image.fromarray(scene()), "PNG"), b"no picture"):
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb") as stream:
            stream.write(data)
        if data == b"no picture":
            assert "is not a picture" in str(failure(f"/dev/fd/{reader}"))
        else:
            np.testing.assert_array_equal(load_image(f"/dev/fd/{reader}", EXACT), scene())
        os.close(reader)


@pytest.mark.parametrize("source", [5, None, 1.5])
def test_no_image_source(source: Any) -> None:
    assert f"found {type(source).__name__}" in str(failure(source))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
)
def test_arrays_that_are_no_pictures(array: NDArray[Any]) -> None:
    assert f"found {array.dtype} {array.shape}" in str(failure(array))


def png_claiming(width: int, height: int) -> bytes:
    """A few bytes of PNG whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60_000, 60_000), (13_000, 12_000)])
def test_decompression_bomb(tmp_path: Path, size: tuple[int, int]) -> None:
    """Refused by its header, before 10 GB are asked for; above Pillow's own limits."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(*size))
    message = str(failure(path))
    assert message.startswith(f"{path}: has too many pixels; expected 178,956,970 or fewer")


@pytest.mark.parametrize("as_array", [True, False])
def test_pixel_limit(as_array: bool) -> None:
    source: Any = scene() if as_array else encoded(Image.fromarray(scene()), "PNG")
    assert "expected 3,071 or fewer, found 64 x 48" in str(failure(source, pixel_limit=3071))
    assert load_image(source, SPEC, pixel_limit=3072).shape == (12, 16, 3)
