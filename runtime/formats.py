"""What kind of file this is, and opening its header: refusals come before a single pixel is decoded.

A file is known by its first bytes, never by its name. What Pillow reads it reads; HEIC needs a package more;
of a RAW file the JPEG in it is taken; for the rest a line says what the file is instead of a picture.
"""

from __future__ import annotations

import io
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kiloword.runtime.errors import ImageError
from kiloword.runtime.raw import TIFF_MAGICS, RawFile, read_raw

if TYPE_CHECKING:
    from PIL.Image import Image

PIXEL_LIMIT = 178_956_970
"""Most pixels of a picture that is decoded; where Pillow, too, stops believing in a photo."""

ORIENTATION_TAG = 0x0112
_FORMATS = "JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP or another format of Pillow"
_HEAD_BYTES = 32
_CHUNK_BYTES = 1 << 20
# A progressive JPEG refines the picture scan by scan, usually 10 times; one of a thousand scans of a huge
# picture takes hours. 20 scans of the largest picture are more than any camera or web service writes.
_SCANNED_PIXELS_LIMIT = 20 * PIXEL_LIMIT

_MAGICS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"FUJIFILMCCD-RAW", "RAW"),
)
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"heim": "HEIC",
    b"heis": "HEIC",
    b"hevc": "HEIC",
    b"hevx": "HEIC",
    b"mif1": "HEIC",
    b"msf1": "HEIC",
    b"crx ": "CR3",
    b"qt  ": "video",
    b"isom": "video",
    b"iso2": "video",
    b"iso5": "video",
    b"iso6": "video",
    b"mp41": "video",
    b"mp42": "video",
    b"M4V ": "video",
    b"3gp4": "video",
    b"3gp5": "video",
}
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")


def open_picture(stream: BinaryIO, pixel_limit: int, path: Path | None) -> Image:
    """Read a picture's header; of a RAW file, that of the JPEG in it.

    Args:
        stream: The file; can be searched.
        pixel_limit: Most pixels, by the header, that are let through.
        path: The file's name for messages.

    Raises:
        ImageError: It is no picture, too large, or of a format that needs something that is not there.
    """
    head = _head(stream)
    kind = kind_of(head)
    if head.startswith(_POSTSCRIPT):  # Pillow would run Ghostscript on it
        raise ImageError("is PostScript, which is a program and no picture", path=path, expected=_FORMATS)
    if kind == "HEIC":
        _register_heic(path)
    if kind in ("CR3", "video"):
        raise _unsupported(kind, path)
    raw = read_raw(stream) if kind == "RAW" or head[:4] in TIFF_MAGICS else None
    image = _open(stream, pixel_limit, path) if raw is None else _open_preview(raw, pixel_limit, path)
    if image.format == "TIFF":
        _quiet_libtiff()
    check_size(image, pixel_limit, path)
    if image.info.get("progressive"):
        _check_scans(stream, image, path)
    return image


def kind_of(head: bytes) -> str | None:
    """The name of a format by a file's first 32 bytes; None for what is not known.

    >>> kind_of(bytes.fromhex("0000001c6674797061766966"))
    'AVIF'
    """
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return None


def _head(stream: BinaryIO) -> bytes:
    stream.seek(0)
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    return head


def _register_heic(path: Path | None) -> None:
    try:
        from pillow_heif import register_heif_opener
    except ModuleNotFoundError as error:
        message = "is HEIC, which needs the package pillow-heif"
        raise ImageError(message, path=path, hint='pip install "kiloword[heic]"') from error
    register_heif_opener()


@cache
def _quiet_libtiff() -> None:
    """Keep libtiff from writing to stderr: what it finds, Pillow raises as well.

    It knows no file's name, and writes in pieces, so that a line of ours may stand within its own.
    """
    import ctypes

    from PIL import _imaging

    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        try:
            set_handler = ctypes.CDLL(_imaging.__file__)[name]
        except (OSError, AttributeError):  # this Pillow has no libtiff, or does not show it
            return
        set_handler.restype = ctypes.c_void_p
        set_handler(None)


def _unsupported(kind: str, path: Path | None) -> ImageError:
    if kind == "video":
        hint = f"kiloword webcam --headless --source {path or 'FILE'}"
        return ImageError("is a video", path=path, expected="a picture", hint=hint)
    hint = "export it as JPEG from your photo program"
    return ImageError("is a RAW file of a kind that is not read (CR3)", path=path, hint=hint)


def _open(stream: BinaryIO, pixel_limit: int, path: Path | None) -> Image:
    from PIL import Image

    stream.seek(0)
    try:
        return Image.open(stream)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(_pixels_in(str(error)), pixel_limit, path) from error
    except Exception as error:  # a plugin's parser may raise anything at a malformed header
        raise _not_a_picture(stream, path) from error


def _open_preview(raw: RawFile, pixel_limit: int, path: Path | None) -> Image:
    """The largest preview that is a JPEG of 8 bits; Canon's raw data, too, calls itself JPEG, but has 14."""
    for jpeg in raw.previews:
        try:
            image = _open(io.BytesIO(jpeg), pixel_limit, path)
        except ImageError:
            continue
        exif = image.getexif()
        if ORIENTATION_TAG not in exif:
            exif[ORIENTATION_TAG] = raw.orientation
        return image
    hint = "export it as JPEG from your photo program"
    raise ImageError("is a RAW file without a preview that can be read", path=path, hint=hint)


def _not_a_picture(stream: BinaryIO, path: Path | None) -> ImageError:
    head = _head(stream)
    size_bytes = stream.seek(0, io.SEEK_END)
    if size_bytes == 0:
        return ImageError("is empty", path=path, expected="a picture", found="0 bytes", hint="copy it again")
    kind = kind_of(head)
    if kind == "AVIF" and not _reads_avif():
        return ImageError("is AVIF, which this Pillow cannot read", path=path, hint="pip install -U pillow")
    if kind is not None:
        found = f"{size_bytes} bytes"
        return ImageError(f"is a {kind} truncated or damaged in its header", path=path, found=found)
    found = f"{size_bytes} bytes that begin with {head[:8]!r}"
    return ImageError("is not a picture", path=path, expected=_FORMATS, found=found)


def _reads_avif() -> bool:
    from PIL import Image

    return "AVIF" in Image.OPEN


def check_size(image: Image, pixel_limit: int, path: Path | None) -> None:
    """Refuse what has no pixels, or more than `pixel_limit`.

    Raises:
        ImageError: One of both.
    """
    width, height = image.size
    if width * height > pixel_limit:
        raise _too_large(f"{width} x {height}", pixel_limit, path)
    if width * height == 0:
        raise ImageError("has no pixels", path=path, found=f"{width} x {height}")


def _too_large(found: str, pixel_limit: int, path: Path | None) -> ImageError:
    return ImageError(
        "has too many pixels",
        path=path,
        expected=f"{pixel_limit:,} or fewer",
        found=found,
        hint="make it smaller first",
    )


def _pixels_in(message: str) -> str:
    """The number in Pillow's sentence, which is not made for the end of a line.

    >>> _pixels_in("Image size (3600000000 pixels) exceeds limit of 5 pixels, could be decompression bomb.")
    '3,600,000,000'
    """
    found = re.search(r"\((\d+) pixels\)", message)
    return f"{int(found[1]):,}" if found else message


def _check_scans(stream: BinaryIO, image: Image, path: Path | None) -> None:
    scans = _count(stream, b"\xff\xda")
    allowed = _SCANNED_PIXELS_LIMIT // (image.width * image.height)
    if scans > allowed:
        raise ImageError(
            "has too many scans",
            path=path,
            expected=f"{allowed} or fewer",
            found=str(scans),
        )


def _count(stream: BinaryIO, mark: bytes) -> int:
    """How often two bytes stand in a file, read piece by piece; the position is put back."""
    position, total, last = stream.tell(), 0, b""
    stream.seek(0)
    while chunk := stream.read(_CHUNK_BYTES):
        total += (last + chunk).count(mark)
        last = chunk[-1:]
    stream.seek(position)
    return total
