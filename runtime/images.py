"""From any picture to the pixels that an encoder takes: one way of reading photos, for training and running.

Pillow does the work. OpenCV's fast resize aliases (25.9 dB against an exact one), and its reader fails on
non-ASCII paths on Windows. A large JPEG is decoded at a fraction of its size: a photo of 12 megapixels takes
32 ms instead of 142 ms, at 53.7 dB to the full decode.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from kiloword.runtime.errors import ImageError
from kiloword.runtime.manifest import ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

PIXEL_LIMIT = 178_956_970
"""Most pixels of a picture that is decoded; where Pillow, too, stops believing in a photo."""

# Decoding at twice the target leaves the final filter enough to average over.
_DRAFT_FACTOR = 2

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_WITH_FRACTIONS = ("JPEG", "MPO")
_FORMATS = "JPEG, PNG, WebP, GIF, TIFF, BMP or another format of Pillow"
_MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG"}


def load_image(
    source: str | os.PathLike[str] | bytes | Image | NDArray[np.uint8],
    spec: ImageSpec,
    *,
    pixel_limit: int = PIXEL_LIMIT,
) -> NDArray[np.uint8]:
    """Read a picture, turn it upright, make it RGB and resize it.

    Transparency is laid over white, grey values of more than 8 bits are scaled down, and of an animation the
    first frame is taken.

    Args:
        source: A path, an encoded picture's bytes, a PIL image, or an array uint8 (height, width), (height,
            width, 3) in RGB or (height, width, 4) in RGBA.
        spec: The size to reach and how.
        pixel_limit: Most pixels (width * height in the file) to decode; more is refused before decoding.

    Returns:
        uint8 (spec.height, spec.width, 3), RGB, contiguous.

    Raises:
        ImageError: The picture is missing, empty, truncated, too large, or not a picture.

    >>> load_image(np.zeros((20, 30, 3), dtype=np.uint8), ImageSpec(height=4, width=6)).shape
    (4, 6, 3)
    """
    from PIL.Image import Image

    if isinstance(source, np.ndarray):
        return _to_pixels(_from_array(source), spec, pixel_limit, None)
    if isinstance(source, Image):
        return _to_pixels(source, spec, pixel_limit, None)
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), spec, pixel_limit, None)
    path = _as_path(source)
    with _open_file(path) as stream:
        return _read(stream, spec, pixel_limit, path)


def _as_path(source: str | os.PathLike[str]) -> Path:
    try:
        return Path(source)
    except TypeError as error:
        expected = "a path, bytes, a PIL image or a uint8 array"
        raise ImageError("is no image source", expected=expected, found=type(source).__name__) from error


def _open_file(path: Path) -> BinaryIO:
    try:
        stream = path.open("rb")
        if stream.seekable():
            return stream
        with stream:  # a pipe, as in `kiloword caption <(...)`, where decoders cannot jump back and forth
            return io.BytesIO(stream.read())
    except FileNotFoundError as error:
        raise ImageError("there is no such file", path=path) from error
    except IsADirectoryError as error:
        hint = f"kiloword caption {path}"
        raise ImageError("is a folder", path=path, expected="a picture", hint=hint) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        found = getattr(error, "strerror", None) or str(error)
        raise ImageError("cannot be read", path=path, found=found) from error


def _read(stream: BinaryIO, spec: ImageSpec, pixel_limit: int, path: Path | None) -> NDArray[np.uint8]:
    """Decode an encoded picture."""
    image = _identify(stream, pixel_limit, path)
    _check_size(image, pixel_limit, path)
    upright_size = _request_fraction(image, spec) if image.format in _WITH_FRACTIONS else None
    return _to_pixels(image, spec, pixel_limit, path, upright_size)


def _request_fraction(image: Image, spec: ImageSpec) -> tuple[int, int]:
    """Let a JPEG be decoded at the smallest fraction that is large enough; returns its true upright size."""
    upright_size = _upright_size(image)
    width, height = (_DRAFT_FACTOR * edge for edge in _resized_size(upright_size, spec))
    sideways = _orientation(image) in _SIDEWAYS
    image.draft(None, (height, width) if sideways else (width, height))
    return upright_size


def _identify(stream: BinaryIO, pixel_limit: int, path: Path | None) -> Image:
    """Read the header."""
    from PIL import Image

    try:
        return Image.open(stream)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(str(error), pixel_limit, path) from error
    except Exception as error:  # a plugin's parser may raise anything at a malformed header
        raise _not_a_picture(stream, path) from error


def _not_a_picture(stream: BinaryIO, path: Path | None) -> ImageError:
    stream.seek(0)
    head = stream.read(8)
    size_bytes = stream.seek(0, io.SEEK_END)
    if size_bytes == 0:
        return ImageError("is empty", path=path, expected="a picture", found="0 bytes", hint="copy it again")
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            found = f"{size_bytes} bytes"
            return ImageError(f"is a {name} truncated or damaged in its header", path=path, found=found)
    found = f"{size_bytes} bytes that begin with {head!r}"
    return ImageError("is not a picture", path=path, expected=_FORMATS, found=found)


def _check_size(image: Image, pixel_limit: int, path: Path | None) -> None:
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


def _to_pixels(
    image: Image,
    spec: ImageSpec,
    pixel_limit: int,
    path: Path | None,
    upright_size: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Decode, turn, convert and resize; ``upright_size`` is the true one of a JPEG decoded at a fraction."""
    _check_size(image, pixel_limit, path)
    try:
        # Before its orientation is asked for: Pillow turns TIFF upright as it loads them, and then says so.
        image.load()
        size = _resized_size(upright_size or _upright_size(image), spec)
        rgb = _to_rgb(_turn_upright(image))
        return np.array(_resize(rgb, size, spec))
    except (
        Exception
    ) as error:  # Pillow's decoders raise anything at damaged data; one photo must not stop a folder
        if "truncated" in str(error).lower():
            raise ImageError(
                "is truncated",
                path=path,
                expected="a whole picture",
                found=_described(error),
                hint="copy it again",
            ) from error
        raise ImageError("cannot be decoded", path=path, found=_described(error)) from error


def _described(error: Exception) -> str:
    return str(error) or type(error).__name__


def _from_array(array: NDArray[Any]) -> Image:
    from PIL import Image

    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not is_picture or array.size == 0:
        raise ImageError(
            "the array is no picture",
            expected="uint8 (height, width), (height, width, 3) or (height, width, 4)",
            found=f"{array.dtype} {array.shape}",
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _orientation(image: Image) -> int:
    """EXIF orientation, 1..8; a photo with broken EXIF data is a photo that stands upright."""
    try:
        orientation = int(image.getexif().get(_ORIENTATION_TAG, 1))
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):  # as Pillow's EXIF reader raises them
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright_size(image: Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def _turn_upright(image: Image) -> Image:
    """Undo the camera's rotation and mirroring.

    Source: Exif 2.32, tag 0x0112.
    """
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image) -> Image:
    """Convert any of Pillow's modes to RGB."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, straight.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image) -> NDArray[np.uint8]:
    """Scale grey values of 16 or 32 bits, or floats, to 0..255.

    Modes ``I`` and ``F`` do not say what white is. The smallest usual white that covers the values is taken,
    or, where none does (elevations, temperatures), the values' own range.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    low, high = float(values.min()), float(values.max())
    whites = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, (65535,))
    white = next((white for white in whites if low >= 0 and high <= white), None)
    if white is not None:
        low, high = 0.0, float(white)
    scaled: NDArray[np.float32] = np.rint((values - low) * (255 / max(high - low, 1e-30)))
    return scaled.clip(0, 255).astype(np.uint8)


def _resized_size(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Width and height to resize to, before any crop."""
    if spec.resize == "stretch" or spec.shortest_edge is None:
        return spec.width, spec.height
    width, height = size
    short = min(width, height)
    # The longer edge is cut to whole pixels, not rounded, as torchvision and transformers do.
    return spec.shortest_edge * width // short, spec.shortest_edge * height // short


def _resize(image: Image, size: tuple[int, int], spec: ImageSpec) -> Image:
    from PIL.Image import Resampling

    resized = image.resize(size, Resampling[spec.resample.upper()])
    if size == (spec.width, spec.height):
        return resized
    left, top = (size[0] - spec.width) // 2, (size[1] - spec.height) // 2
    return resized.crop((left, top, left + spec.width, top + spec.height))
