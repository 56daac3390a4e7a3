"""Makes photos as they lie in real folders: odd, broken, hostile; each with what must become of it."""

from __future__ import annotations

import io
import os
import random
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CAPTION, WARNING, ERROR = "caption", "warning", "error"
RAW_SUFFIXES = ("cr2", "nef", "arw", "dng", "raf")


@dataclass(frozen=True)
class Hostile:
    """One file and its fate."""

    path: Path
    outcome: str
    """`caption`, `warning` (a caption and a warning) or `error`."""
    words: str = ""
    """What the warning or the error must contain."""


def scene(width: int = 64, height: int = 48) -> Image.Image:
    """A picture with structure and noise everywhere, so that no row of it is flat."""
    rows, columns = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(3).integers(0, 60, (height, width))
    red, green = 195 * columns // width + noise, 195 * rows // height + noise
    return Image.fromarray(np.stack([red, green, noise + 90], axis=2).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def jpeg(image: Image.Image | None = None, **options: Any) -> bytes:
    return encoded(image or scene(), "JPEG", **{"quality": 90, **options})


def png(image: Image.Image | None = None, **options: Any) -> bytes:
    return encoded(image or scene(), "PNG", **options)


def with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(exif=exif)


def up_to(data: bytes, share: float) -> bytes:
    return data[: int(share * len(data))]


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new, 1)


def with_jpeg_size(data: bytes, width: int, height: int, frame: bytes = b"\xff\xc0") -> bytes:
    """The frame header says another size."""
    start = data.index(frame) + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


def ycck() -> bytes:
    """A CMYK JPEG whose Adobe segment says that the first three planes are YCbCr."""
    data = jpeg(scene().convert("CMYK"))
    start = data.index(b"Adobe") + 11
    return data[:start] + b"\2" + data[start + 1 :]


def endless_scans() -> bytes:
    """A progressive JPEG of 100 million pixels that asks to be refined ten thousand times."""
    data = with_jpeg_size(jpeg(progressive=True), 10_000, 10_000, b"\xff\xc2")
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 5, 0x10)
    return data[:-2] + scan * 10_000 + data[-2:]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_by_hand(
    width: int, height: int, rows: bytes, *, bits: int = 8, colours: int = 2, interlace: int = 0
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, interlace)
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


def interlaced_png() -> bytes:
    """Seven passes over 16 x 16 grey pixels. Source: PNG specification, Adam7."""
    passes = (
        (0, 8, 0, 8),
        (0, 8, 4, 8),
        (4, 8, 0, 4),
        (0, 4, 2, 4),
        (2, 4, 0, 2),
        (0, 2, 1, 2),
        (1, 2, 0, 1),
    )
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rows = (row for y, dy, x, dx in passes for row in values[y::dy, x::dx])
    return png_by_hand(16, 16, b"".join(b"\0" + row.tobytes() for row in rows), colours=0, interlace=1)


def deep_colour_png() -> bytes:
    row = b"\0" + struct.pack(">48H", *range(0, 48 * 1300, 1300))
    return png_by_hand(16, 16, row * 16, bits=16)


def text_bomb_png() -> bytes:
    """A comment that unpacks to 200 MB."""
    data = png()
    comment = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 1))
    return data[:33] + comment + data[33:]


def animated(kind: str) -> bytes:
    frames = [scene(), Image.new("RGB", (64, 48), "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def tiff_by_hand(
    order: str,
    directories: list[list[tuple[int, int, list[int]]]],
    data: bytes,
    *,
    below: tuple[int, ...] = (),
    magic: bytes = b"",
) -> bytes:
    """A TIFF whose first field values beyond four bytes are not needed; `data` lies at byte 4096.

    Args:
        order: ``<`` or ``>``.
        directories: Fields (tag, type, values) with one value each.
        data: What the offsets in the fields point at.
        below: Which directories hang below the first instead of following it.
        magic: What stands behind the first eight bytes.
    """
    offsets = [64 + 512 * number for number in range(len(directories))]
    chain = [number for number in range(len(directories)) if number not in below]
    mark = b"II*\0" if order == "<" else b"MM\0*"
    file = bytearray(mark + struct.pack(order + "I", offsets[0]) + magic).ljust(4096, b"\0") + data
    for number, fields in enumerate(directories):
        links = [(0x014A, 4, [offsets[below[0]]])] if below and number == 0 else []
        rows = sorted([*fields, *links])
        body = struct.pack(order + "H", len(rows))
        for tag, kind, values in rows:
            value = struct.pack(order + ("HH" if kind == 3 else "I"), *values, *([0] if kind == 3 else []))
            body += struct.pack(order + "HHI", tag, kind, 1) + value
        position = chain.index(number) if number in chain else len(chain)
        following = offsets[chain[position + 1]] if position + 1 < len(chain) else 0
        body += struct.pack(order + "I", following)
        file[offsets[number] : offsets[number] + len(body)] = body
    return bytes(file)


def raw_file(suffix: str) -> bytes:
    """The skeleton of a RAW file: directories as the maker writes them, a preview, and no sensor data."""
    preview = jpeg(scene(320, 240))
    size = len(preview)
    strip = [(0x0111, 4, [4096]), (0x0117, 4, [size])]
    pointer = [(0x0201, 4, [4096]), (0x0202, 4, [size])]
    sensor = [(0x0106, 3, [32803]), (0x0103, 3, [1])]
    turned = (0x0112, 3, [6])
    if suffix == "raf":
        head = b"FUJIFILMCCD-RAW 0201".ljust(84, b"\0") + struct.pack(">II", 4096, size)
        return head.ljust(4096, b"\0") + preview
    if suffix == "cr2":
        return tiff_by_hand("<", [[(0x0103, 3, [6]), turned, *strip]], preview, magic=b"CR\2\0")
    if suffix == "nef":
        return tiff_by_hand(">", [[turned], [*pointer, (0x0103, 3, [6])], sensor], preview, below=(1,))
    if suffix == "arw":
        return tiff_by_hand("<", [[turned, *pointer], sensor], preview, below=(1,))
    dng = [(0xC612, 1, [0x00000401]), turned]
    return tiff_by_hand("<", [dng, [(0x0103, 3, [7]), (0x0106, 3, [6]), *strip]], preview, below=(1,))


def raw_without_preview() -> bytes:
    return tiff_by_hand("<", [[(0xC612, 1, [0x00000401])]], b"")


def tiff_of_size(width: int, height: int, samples: int = 1) -> bytes:
    fields = [(0x0100, 4, [width]), (0x0101, 4, [height]), (0x0106, 3, [1]), (0x0102, 3, [8])]
    strip = [(0x0111, 4, [4096]), (0x0115, 3, [samples]), (0x0117, 4, [100])]
    return tiff_by_hand("<", [[*fields, (0x0103, 3, [1]), *strip]], bytes(100))


def looping_tiff() -> bytes:
    """Its directory says that the next directory is itself."""
    data = encoded(scene(), "TIFF")
    start = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[start : start + 2])[0]
    end = start + 2 + 12 * count
    return data[:end] + struct.pack("<I", start) + data[end + 4 :]


def heic() -> bytes:
    if find_spec("pillow_heif") is None:
        return struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic"
    from pillow_heif import from_pillow

    stream = io.BytesIO()
    from_pillow(scene()).save(stream)
    return stream.getvalue()


def _jpegs() -> dict[str, bytes]:
    exif_loop = b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0"
    files = {f"turned {number}.jpg": with_orientation(number) for number in range(1, 9)}
    return files | {
        "plain.jpg": jpeg(),
        "grey.jpg": jpeg(scene().convert("L")),
        "cmyk.jpg": jpeg(scene().convert("CMYK")),
        "ycck.jpg": ycck(),
        "progressive.jpg": jpeg(progressive=True),
        "restarts.jpg": jpeg(restart_marker_blocks=1),
        "one pixel.jpg": jpeg(scene(1, 1)),
        "hair.jpg": jpeg(scene(3000, 1)),
        "a panorama.jpg": jpeg(scene(4000, 20)),
        "garbage behind.jpg": jpeg() + random.Random(6).randbytes(500),
        "broken exif.jpg": jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
        "looping exif.jpg": jpeg(exif=exif_loop),
        "two pictures.jpg": encoded(scene(), "MPO", save_all=True, append_images=[scene()]),
        "really.png": jpeg(),
        "damaged inside.jpg": jpeg()[:1500] + bytes(40) + jpeg()[1540:],
        "SHOUTED.JPG": jpeg(),
    }


def _others() -> dict[str, bytes]:
    rgb, alpha = scene(), scene().convert("RGBA")
    alpha.putalpha(scene().convert("L"))
    grey16 = Image.fromarray((np.arange(3072, dtype=np.uint16) * 21).reshape(48, 64))
    return {
        "plain.png": png(),
        "alpha.png": png(alpha),
        "grey alpha.png": png(alpha.convert("LA")),
        "palette.png": png(rgb.convert("P")),
        "transparent palette.png": png(rgb.convert("P"), transparency=3),
        "one bit.png": png(rgb.convert("1")),
        "16 bit grey.png": png(grey16),
        "16 bit colour.png": deep_colour_png(),
        "interlaced.png": interlaced_png(),
        "animated.png": animated("PNG"),
        "plain.webp": encoded(rgb, "WEBP"),
        "lossless alpha.webp": encoded(alpha, "WEBP", lossless=True),
        "animated.webp": animated("WEBP"),
        "plain.avif": encoded(rgb, "AVIF"),
        "alpha.avif": encoded(alpha, "AVIF"),
        "plain.gif": encoded(rgb.convert("P"), "GIF"),
        "animated.gif": animated("GIF"),
        "transparent.gif": encoded(rgb.convert("P"), "GIF", transparency=0),
        "plain.tiff": encoded(rgb, "TIFF"),
        "lzw.tif": encoded(rgb, "TIFF", compression="tiff_lzw"),
        "jpeg inside.tif": encoded(rgb, "TIFF", compression="jpeg"),
        "cmyk.tif": encoded(rgb.convert("CMYK"), "TIFF"),
        "16 bit.tif": encoded(grey16, "TIFF"),
        "float.tif": encoded(rgb.convert("F"), "TIFF"),
        "pages.tif": encoded(rgb, "TIFF", save_all=True, append_images=[rgb]),
        "loop.tif": looping_tiff(),
        "plain.bmp": encoded(rgb, "BMP"),
        "palette.bmp": encoded(rgb.convert("P"), "BMP"),
        **{f"preview.{suffix}": raw_file(suffix) for suffix in RAW_SUFFIXES},
    }


def _warned() -> dict[str, tuple[bytes, str]]:
    progressive = jpeg(scene(320, 240), progressive=True)
    return {
        "cut at 95.jpg": (up_to(jpeg(), 0.95), "is truncated; the caption describes the"),
        "cut at 60.jpg": (up_to(jpeg(scene(320, 240)), 0.6), "is truncated"),
        "cut progressive.jpg": (up_to(progressive, 0.7), "is truncated"),
        "cut cmyk.jpg": (up_to(jpeg(scene(320, 240).convert("CMYK")), 0.7), "is truncated"),
        "cut at 70.png": (up_to(png(scene(320, 240)), 0.7), "is truncated"),
    }


def _refused() -> dict[str, tuple[bytes, str]]:
    header = jpeg()[: jpeg().index(b"\xff\xda")]
    twelve_bits = bytearray(jpeg())
    twelve_bits[twelve_bits.index(b"\xff\xc0") + 4] = 12
    bad_checksum = bytearray(png())
    bad_checksum[29] ^= 0xFF
    damaged = "truncated or damaged in its header"
    has_heic = find_spec("pillow_heif") is not None
    bmff = struct.pack(">I", 24)
    return {
        "empty.jpg": (b"", "is empty"),
        "empty.heic": (b"", "is empty"),
        "one byte.png": (b"\x89", "is not a picture"),
        "start only.jpg": (jpeg()[:3], damaged),
        "header only.jpg": (header, "truncated"),
        "cut early.jpg": (up_to(jpeg(scene(320, 240)), 0.1), "is truncated"),
        "12 bits.jpg": (bytes(twelve_bits), damaged),
        "bomb.jpg": (with_jpeg_size(jpeg(), 65_000, 65_000), "has too many pixels"),
        "no height.jpg": (with_jpeg_size(jpeg(), 64, 0), ""),
        "endless scans.jpg": (endless_scans(), "has too many scans"),
        "bomb.png": (
            png_by_hand(60_000, 60_000, b"\0"),
            "has too many pixels; expected 178,956,970 or fewer, found 3,600,000,000. Try:",
        ),
        "header only.png": (png()[:33], ""),
        "stub.png": (png()[:16], damaged),
        "checksum.png": (bytes(bad_checksum), damaged),
        "cut interlaced.png": (up_to(interlaced_png(), 0.7), ""),
        "text bomb.png": (text_bomb_png(), ""),
        "cut.webp": (up_to(encoded(scene(), "WEBP"), 0.5), f"is a WebP {damaged}"),
        "cut.avif": (up_to(encoded(scene(), "AVIF"), 0.5), f"is a AVIF {damaged}"),
        "cut.gif": (up_to(encoded(scene().convert("P"), "GIF"), 0.5), "truncated"),
        "cut.tif": (up_to(encoded(scene(), "TIFF", compression="tiff_lzw"), 0.5), ""),
        "cut jpeg inside.tif": (up_to(encoded(scene(), "TIFF", compression="jpeg"), 0.5), ""),
        "516 samples.tif": (tiff_of_size(64, 48, samples=516), f"is a TIFF {damaged}"),
        "bomb.tif": (tiff_of_size(100_000, 100_000), "has too many pixels"),
        "cut.bmp": (up_to(encoded(scene(), "BMP"), 0.5), "truncated"),
        "broken.heic": (bmff + b"ftypheic\0\0\0\0mif1heic", damaged if has_heic else "kiloword[heic]"),
        "no preview.dng": (raw_without_preview(), "RAW file without a preview"),
        "canon.cr3": (bmff + b"ftypcrx \0\0\0\0crx isom", "RAW file of a kind that is not read"),
        "film.jpg": (bmff + b"ftypisom\0\0\0\0isommp42", "is a video"),
        "document.jpg": (b"%PDF-1.7\n", "is not a picture"),
        "program.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is PostScript"),
        "page.jpg": (b"<!doctype html><title>404</title>", "is not a picture"),
        "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is not a picture"),
        "noise.jpg": (random.Random(5).randbytes(5000), "is not a picture"),
        "zeros.jpg": (bytes(5000), "is not a picture"),
    }


def make_hostile(folder: Path) -> list[Hostile]:
    """Fill a folder; returns each file's fate. Links and other odd things are `make_odd_entries`'."""
    cases = [(name, data, CAPTION, "") for name, data in (_jpegs() | _others()).items()]
    cases += [(name, data, WARNING, words) for name, (data, words) in _warned().items()]
    cases += [(name, data, ERROR, words) for name, (data, words) in _refused().items()]
    has_heic = find_spec("pillow_heif") is not None
    cases.append(("photo.heic", heic(), *((CAPTION, "") if has_heic else (ERROR, "kiloword[heic]"))))
    for name, data, _, _ in cases:
        (folder / name).write_bytes(data)
    return [Hostile(folder / name, outcome, words) for name, _, outcome, words in cases]


def make_odd_entries(folder: Path) -> list[Hostile]:
    """What only a POSIX file system holds: links to nowhere and in circles, pipes, names of any bytes."""
    names = {
        "Фото 🐈 海.jpg",
        "-rf.jpg",
        "two\nlines.jpg",
        "[1] $(x) 'q\".jpg",
        " spaces .jpg",
        "x" * 251 + ".jpg",
    }
    if sys.platform != "darwin":
        names.add(os.fsdecode(b"caf\xe9.jpg"))
    for name in names:
        (folder / name).write_bytes(jpeg())
    deep = folder.joinpath(*["d" * 200] * 8)
    deep.mkdir(parents=True)
    (deep / "deep.jpg").write_bytes(jpeg())
    (folder / "ring").mkdir()
    (folder / "ring" / "back").symlink_to(folder, target_is_directory=True)
    (folder / "folder.jpg").mkdir()
    (folder / "nowhere.jpg").symlink_to("gone.jpg")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.jpg")
    good = [Hostile(folder / name, CAPTION) for name in names] + [Hostile(deep / "deep.jpg", CAPTION)]
    return [
        *good,
        Hostile(folder / "nowhere.jpg", ERROR, "there is no such file"),
        Hostile(folder / "itself.jpg", ERROR, "cannot be read"),
        Hostile(folder / "zero.jpg", ERROR, "is no ordinary file"),
        Hostile(folder / "pipe.jpg", ERROR, "is no ordinary file"),
    ]


def mutated(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Damage good files at random, the same way for the same seed: (name, content)."""
    chance = random.Random(seed)
    whole = [item for item in (_jpegs() | _others()).items() if len(item[1]) < 60_000]
    damages: tuple[Callable[[bytearray, random.Random], None], ...] = (_flip, _cut, _repeat, _extreme, _blank)
    for number in range(count):
        name, content = chance.choice(whole)
        data = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 5, 20))):
            chance.choice(damages)(data, chance)
        yield f"{number:04} {name}", bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    """Headers are hit as often as all the rest."""
    return chance.randrange(max(1, min(len(data), chance.choice((64, 600, len(data) or 1)))))


def _flip(data: bytearray, chance: random.Random) -> None:
    if data:
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _cut(data: bytearray, chance: random.Random) -> None:
    start = _place(data, chance)
    del data[start : start + chance.choice((1, 4, 100, 10_000))]


def _repeat(data: bytearray, chance: random.Random) -> None:
    start = _place(data, chance)
    data[start:start] = data[start : start + chance.choice((1, 12, 300))]


def _extreme(data: bytearray, chance: random.Random) -> None:
    start, width = _place(data, chance), chance.choice((1, 2, 4))
    data[start : start + width] = chance.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * width


def _blank(data: bytearray, chance: random.Random) -> None:
    start = _place(data, chance)
    length = min(chance.choice((8, 200, 4000)), len(data) - start)
    data[start : start + length] = bytes(length)
