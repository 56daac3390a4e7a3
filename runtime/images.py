"""From any picture to the pixels that an encoder takes: one way of reading photos, for training and running.

Pillow does the work. OpenCV's fast resize aliases (25.9 dB against an exact one), and its reader fails on
non-ASCII paths on Windows. A large JPEG is decoded at a fraction of its size: a photo of 12 megapixels takes
32 ms instead of 142 ms, at 53.7 dB to the full decode.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Union

import numpy as np

from kiloword.runtime.errors import ImageError
from kiloword.runtime.formats import ORIENTATION_TAG, PIXEL_LIMIT, check_size, open_picture
from kiloword.runtime.manifest import ImageSpec
from kiloword.runtime.salvage import WITH_FRACTIONS, visible_part

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

# Decoding at twice the target leaves the final filter enough to average over.
_DRAFT_FACTOR = 2

_PILLOW_FINDS_NO_DATA = "cannot load this image"
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Photo:
    """A picture, ready for the encoder."""

    pixels: NDArray[np.uint8]
    """(height, width, 3), RGB, contiguous."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the file though it could be read, in a few words each."""


_Source = Union[str, "os.PathLike[str]", bytes, "Image", "NDArray[np.uint8]"]


def load_photo(source: _Source, spec: ImageSpec, *, pixel_limit: int = PIXEL_LIMIT) -> Photo:
    """Read a picture as `load_image` does, but of one that broke off take what is there, and say so.

    A JPEG or PNG whose upper part is whole is cut to that part, if this is a quarter of the picture or more.

    Args:
        source: As for `load_image`.
        spec: As for `load_image`.
        pixel_limit: As for `load_image`.

    Raises:
        ImageError: The picture is missing, empty, too large, or damaged beyond use.

    >>> load_photo(np.zeros((20, 30, 3), dtype=np.uint8), ImageSpec(height=4, width=6)).warnings
    ()
    """
    return _load(source, spec, pixel_limit, salvages=True)


def load_image(source: _Source, spec: ImageSpec, *, pixel_limit: int = PIXEL_LIMIT) -> NDArray[np.uint8]:
    """Read a whole picture, turn it upright, make it RGB and resize it.

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
    return _load(source, spec, pixel_limit, salvages=False).pixels


def _load(source: _Source, spec: ImageSpec, pixel_limit: int, *, salvages: bool) -> Photo:
    from PIL.Image import Image

    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, Image):
        check_size(source, pixel_limit, None)
        return Photo(_to_pixels(source, spec, None))
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), spec, pixel_limit, None, salvages)
    path = _as_path(source)
    with _open_file(path) as stream:
        return _read(stream, spec, pixel_limit, path, salvages)


def import_decoders() -> None:
    """Import Pillow and its decoders of the usual formats now; it happens by itself at the first photo."""
    from PIL import Image

    Image.preinit()


def upright_size(source: _Source, *, pixel_limit: int = PIXEL_LIMIT) -> tuple[int, int]:
    """Width and height of a picture as it stands upright; of a file, only the header is read.

    Args:
        source: As for `load_image`.
        pixel_limit: As for `load_image`.

    Raises:
        ImageError: The picture is missing, empty, too large, or not a picture.

    >>> upright_size(np.zeros((20, 30, 3), dtype=np.uint8))
    (30, 20)
    """
    from PIL.Image import Image

    if isinstance(source, np.ndarray):
        return _from_array(source).size
    if isinstance(source, Image):
        return _upright_size(source)
    if isinstance(source, bytes):
        return _upright_size(open_picture(io.BytesIO(source), pixel_limit, None))
    path = _as_path(source)
    with _open_file(path) as stream:
        return _upright_size(open_picture(stream, pixel_limit, path))


def _as_path(source: str | os.PathLike[str]) -> Path:
    try:
        return Path(source)
    except TypeError as error:
        expected = "a path, bytes, a PIL image or a uint8 array"
        raise ImageError("is no image source", expected=expected, found=type(source).__name__) from error


@contextmanager
def told_as_image_errors(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a photo's file is opened and read into errors that name it.

    Raises:
        ImageError: It is missing, a folder, or cannot be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError("there is no such file", path=path) from error
    except IsADirectoryError as error:
        hint = f"kiloword caption {path}"
        raise ImageError("is a folder", path=path, expected="a picture", hint=hint) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        found = getattr(error, "strerror", None) or str(error)
        raise ImageError("cannot be read", path=path, found=found) from error


def _open_file(path: Path) -> BinaryIO:
    with told_as_image_errors(path):
        stream = path.open("rb")
        if stream.seekable():
            return stream
        with stream:  # a pipe, as in `kiloword caption <(...)`, where decoders cannot jump back and forth
            return io.BytesIO(stream.read())


def _read(stream: BinaryIO, spec: ImageSpec, pixel_limit: int, path: Path | None, salvages: bool) -> Photo:
    """Decode an encoded picture."""
    image = open_picture(stream, pixel_limit, path)
    upright_size = _request_fraction(image, spec) if image.format in WITH_FRACTIONS else None
    try:
        image.load()
    except Exception as error:  # decoders raise anything at damaged data; one photo must not stop a folder
        visible = visible_part(image, stream) if salvages and "truncated" in str(error).lower() else None
        if visible is None:
            raise _undecodable(error, path) from error
        share = visible.height / image.height
        warning = f"is truncated; the caption describes the {share:.0%} that can be read"
        return Photo(_to_pixels(visible, spec, path), (warning,))
    return Photo(_to_pixels(image, spec, path, upright_size))


def _undecodable(error: Exception, path: Path | None) -> ImageError:
    found = str(error) or type(error).__name__
    if found == _PILLOW_FINDS_NO_DATA:
        found = "a truncated file, its header alone"
    if "truncated" in found.lower():
        expected, hint = "a whole picture", "copy it again"
        return ImageError("is truncated", path=path, expected=expected, found=found, hint=hint)
    return ImageError("cannot be decoded", path=path, found=found)


def _request_fraction(image: Image, spec: ImageSpec) -> tuple[int, int]:
    """Let a JPEG be decoded at the smallest fraction that is large enough; returns its true upright size."""
    upright_size = _upright_size(image)
    width, height = (_DRAFT_FACTOR * edge for edge in _resized_size(upright_size, spec))
    sideways = _orientation(image) in _SIDEWAYS
    image.draft(None, (height, width) if sideways else (width, height))
    return upright_size


def _to_pixels(
    image: Image, spec: ImageSpec, path: Path | None, upright_size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Decode, turn, convert and resize; ``upright_size`` is the true one of a JPEG decoded at a fraction."""
    try:
        # Before its orientation is asked for: Pillow turns TIFF upright as it loads them, and then says so.
        image.load()
        size = _resized_size(upright_size or _upright_size(image), spec)
        rgb = _to_rgb(_turn_upright(image))
        return np.array(_resize(rgb, size, spec))
    except Exception as error:
        raise _undecodable(error, path) from error


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
        orientation = int(image.getexif().get(ORIENTATION_TAG, 1))
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
    # Halves, because the difference of two floats may be larger than any float.
    scaled: NDArray[np.float32] = np.rint((values / 2 - low / 2) * (510 / max(high - low, 1e-30)))
    return scaled.clip(0, 255).astype(np.uint8)


def _resized_size(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Width and height to resize to, before any crop."""
    if spec.stretch_width is not None and spec.stretch_height is not None:
        return spec.stretch_width, spec.stretch_height
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
