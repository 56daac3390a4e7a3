"""The part of a picture that is there, when its file broke off: a copy that was cut short, a card pulled out.

No setting of Pillow is touched for it: `ImageFile.LOAD_TRUNCATED_IMAGES` would hold for the whole program.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

WITH_FRACTIONS = ("JPEG", "MPO")
"""Formats that Pillow can decode at a fraction of their size."""

_LEAST_SHARE = 0.25
"""Less of a picture than this says little about it."""
_JPEG_END = b"\xff\xd9"
_JPEG_UNDECODED = 128  # what libjpeg fills a picture with where no data came


def visible_part(image: Image, stream: BinaryIO) -> Image | None:
    """The upper rows that can be decoded, of a JPEG or PNG whose `load` said that it is truncated.

    Args:
        image: What failed to load; its size is that of the picture that is sought.
        stream: The file that it was opened from.

    Returns:
        A loaded picture as wide as `image`; None where too little is there, or its format hides what is.
    """
    if image.format in WITH_FRACTIONS:
        found = _decode_ended(image, stream)
    elif image.format == "PNG" and not image.info.get("interlace"):
        found = _rows_so_far(image)
    else:
        return None
    if found is None:
        return None
    part, rows = found
    if rows < _LEAST_SHARE * part.height:
        return None
    return part.crop((0, 0, part.width, rows))


def _decode_ended(image: Image, stream: BinaryIO) -> tuple[Image, int] | None:
    """Decode a JPEG with the end mark put behind what is there, and count the rows that are not filling.

    With the mark, libjpeg gives what it has: a plain JPEG's upper rows, a progressive one's coarse picture.
    """
    from PIL.Image import open as open_image

    stream.seek(0)
    try:
        ended = open_image(io.BytesIO(stream.read() + _JPEG_END))
        if ended.format not in WITH_FRACTIONS:  # the stream is a RAW file around the JPEG
            return None
        ended.draft(None, image.size)
        ended.load()
    except Exception:  # noqa: BLE001  whatever it is, there is nothing to see
        return None
    filling = np.abs(np.asarray(ended, dtype=np.int16) - _JPEG_UNDECODED) <= 1
    return ended, _last_row_without(filling) + 1


def _rows_so_far(image: Image) -> tuple[Image, int]:
    """What the PNG decoder had written before it failed: the rows that follow are zero."""
    cast("ImageFile", image).tile = []  # nothing is left to decode, so that `load` will not fail again
    zeros = np.asarray(image) == 0
    return image, _last_row_without(zeros) + 1


def _last_row_without(filling: NDArray[Any]) -> int:
    """The last row with something that is not filling; -1 if there is none."""
    rows = np.flatnonzero(~filling.reshape(len(filling), -1).all(axis=1))
    return int(rows[-1]) if len(rows) else -1
