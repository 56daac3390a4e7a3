"""A photo with attention laid over it: bright where the model looked, dark elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from kiloword.runtime.images import load_image, upright_size
from kiloword.runtime.manifest import ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kiloword.runtime.captioner import ImageSource

_DARKEST = 0.28  # of the photo's light, where nothing was looked at
_WARM = np.array([255.0, 176.0, 60.0], dtype=np.float32)
_WARMTH = 0.22


@dataclass(frozen=True)
class Seen:
    """A photo and what of it the encoder saw."""

    pixels: NDArray[np.uint8]
    """uint8 (height, width, 3), RGB: the part that the encoder saw, in the photo's own proportions."""
    left: float
    """Left edge of that part, as a share of the photo's width."""
    top: float
    width: float
    """Its width, as a share of the photo's."""
    height: float


def see(source: ImageSource, spec: ImageSpec, longest: int) -> Seen:
    """Read a photo as the encoder sees it, at a size for people.

    Args:
        source: As for `load_image`.
        spec: How the encoder gets its photos.
        longest: The longer edge of the result in pixels.

    Raises:
        ImageError: The photo cannot be read.
    """
    width, height = upright_size(source)
    if spec.resize == "stretch":
        scale = longest / max(width, height)
        view = ImageSpec(height=max(1, round(height * scale)), width=max(1, round(width * scale)))
        return Seen(load_image(source, view), 0.0, 0.0, 1.0, 1.0)
    scale = longest / max(spec.height, spec.width)
    view = replace(
        spec,
        height=round(spec.height * scale),
        width=round(spec.width * scale),
        # Rounded up: what is cut out must not be larger than what it is cut from.
        shortest_edge=_scaled_up(spec.shortest_edge, scale),
        stretch_height=_scaled_up(spec.stretch_height, scale),
        stretch_width=_scaled_up(spec.stretch_width, scale),
    )
    return Seen(load_image(source, view), *part_seen((width, height), spec))


def _scaled_up(size: int | None, scale: float) -> int | None:
    return None if size is None else int(np.ceil(size * scale))


def part_seen(size: tuple[int, int], spec: ImageSpec) -> tuple[float, float, float, float]:
    """Which part of a photo an encoder sees.

    Args:
        size: Width and height of the photo, upright.
        spec: How the encoder gets its photos.

    Returns:
        Left, top, width and height, as shares of the photo.
    """
    width, height = 1.0, 1.0
    if spec.stretch_width is not None and spec.stretch_height is not None:
        width, height = spec.width / spec.stretch_width, spec.height / spec.stretch_height
    elif spec.shortest_edge is not None:
        short = min(size)
        width = spec.width / spec.shortest_edge * short / size[0]
        height = spec.height / spec.shortest_edge * short / size[1]
    return (1 - width) / 2, (1 - height) / 2, width, height


def spread(map_: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """A map over the grid as a smooth one over pixels, its highest value 1.

    Args:
        map_: float32 (grid height, grid width), 0 or more.
        height: Rows to reach.
        width: Columns to reach.

    Returns:
        float32 (height, width), 0..1.
    """
    image = Image.fromarray(np.ascontiguousarray(map_ / max(float(map_.max()), 1e-12), dtype=np.float32))
    smooth = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    light: NDArray[np.float32] = np.clip(smooth / max(float(smooth.max()), 1e-12), 0.0, 1.0)
    return light


def lay_over(pixels: NDArray[np.uint8], map_: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The photo, lit by attention: each word's own maximum is full light.

    Args:
        pixels: uint8 (height, width, 3), RGB.
        map_: float32 (grid height, grid width).

    Returns:
        uint8 (height, width, 3).
    """
    light = spread(map_, *pixels.shape[:2])[:, :, None]
    lit = pixels * (_DARKEST + (1 - _DARKEST) * light)
    mixed = lit + _WARMTH * light * (_WARM - lit)
    drawn: NDArray[np.uint8] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return drawn


def place_of(row: int, column: int, shape: tuple[int, int]) -> str:
    """A cell of the grid in words, such as ``upper left``, for who cannot see the picture."""
    vertical = ("upper", "middle", "lower")[min(2, 3 * row // shape[0])]
    horizontal = ("left", "centre", "right")[min(2, 3 * column // shape[1])]
    return "centre" if (vertical, horizontal) == ("middle", "centre") else f"{vertical} {horizontal}"
