"""Pictures to measure with: the caller's own photos, or made ones where there are none."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import ImageSpec
from kiloword.runtime.provider_trial import made_picture, made_pictures

if TYPE_CHECKING:
    from numpy.typing import NDArray

MADE_PICTURES = 8
LARGE_SIZE = (4000, 3000)
"""Width and height: what a telephone takes, 12 megapixels."""
_GRAIN = 6.0
_QUALITY = 88


def pixels_of(photos: Sequence[str], spec: ImageSpec) -> list[NDArray[np.uint8]]:
    """What the encoder takes of each photo; of made pictures where none are given.

    Args:
        photos: Paths.
        spec: The size to reach.

    Returns:
        uint8 (height, width, 3) each.
    """
    if photos:
        return [load_image(photo, spec) for photo in photos]
    return list(made_pictures(spec.height, spec.width, MADE_PICTURES))


def write_large_photos(folder: Path, count: int, sources: Sequence[str] = ()) -> list[str]:
    """Fill a folder with JPEGs of 12 megapixels, all different files.

    Args:
        folder: Where.
        count: How many.
        sources: Photos to enlarge; made pictures where there are none. Four of them are used at most.

    Returns:
        Their paths.
    """
    pictures = [_encoded(_large(source)) for source in (sources or ("",))[:4]]
    paths = []
    for number in range(count):
        path = folder / f"{number:04d}.jpg"
        path.write_bytes(pictures[number % len(pictures)] + f"{number}".encode())
        paths.append(str(path))
    return paths


def _large(source: str) -> NDArray[np.uint8]:
    """A picture of 12 megapixels with a camera's grain, without which a JPEG is decoded too easily."""
    from PIL import Image

    if source:
        with Image.open(source) as photo:
            picture = np.asarray(photo.convert("RGB").resize(LARGE_SIZE), dtype=np.float32)
    else:
        picture = made_picture(LARGE_SIZE[1], LARGE_SIZE[0]).astype(np.float32)
    grain = np.random.default_rng(0).standard_normal((*picture.shape[:2], 1), dtype=np.float32)
    return (picture + _GRAIN * grain).clip(0, 255).astype(np.uint8)


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
