"""Text on pictures: captions broken into lines, set in fonts that have their letters, in any alphabet."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from kiloword.runtime.fonts import FontSet, font_for, wrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Colour: TypeAlias = "tuple[int, int, int]"
WHITE: Colour = (255, 255, 255)
_SHADE = 3  # a third of the picture's light is left behind text that lies on it


def at_most(lines: Sequence[str], most: int) -> list[str]:
    """At most so many lines; the last ends with dots if some were left out."""
    return list(lines) if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1]} …"]


def draw_line(
    draw: ImageDraw.ImageDraw, position: tuple[float, float], text: str, fonts: FontSet, colour: Colour
) -> None:
    """Draw one line, each word in its font, all on one base line.

    Args:
        draw: Where to.
        position: Left and base line.
        text: The words.
        fonts: The size.
        colour: Of the letters.
    """
    left, base = position
    for word in text.split(" "):
        font = font_for(word, fonts.size)
        draw.text((left, base), word, colour, font, anchor="ls")
        left += font.getlength(word) + fonts.space


def text_panel(
    lines: Sequence[tuple[str, FontSet, Colour]], size: tuple[int, int], margin: int, background: Colour
) -> NDArray[np.uint8]:
    """Lines of text one below the other.

    Args:
        lines: Text, fonts and colour of each.
        size: Width and height of the panel in pixels.
        margin: Left of the text and above it.
        background: Colour of the panel.

    Returns:
        uint8 (height, width, 3), red first.
    """
    panel = Image.new("RGB", size, background)
    draw = ImageDraw.Draw(panel)
    top = float(margin)
    for text, fonts, colour in lines:
        draw_line(draw, (margin, top + fonts.size), text, fonts, colour)
        top += 1.25 * fonts.size
    return np.asarray(panel)


def burn_in(bgr: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Write a caption on the bottom of a picture, white on a darkened strip.

    Args:
        bgr: uint8 (height, width, 3), blue first; not changed.
        text: The caption; an empty one changes nothing.

    Returns:
        uint8 of the same shape.
    """
    if not text:
        return bgr
    height, width = bgr.shape[:2]
    strip = _strip(text, width, height)
    burnt = bgr.copy()
    behind = burnt[height - len(strip) :]
    np.maximum(behind // _SHADE, strip, out=behind)
    return burnt


@lru_cache(maxsize=4)
def _strip(text: str, width: int, height: int) -> NDArray[np.uint8]:
    """White text on black for a picture of this size; kept, because a video repeats it for seconds."""
    fonts = FontSet(max(12, min(width // 26, height // 10)))
    margin = fonts.size // 2
    lines = at_most(wrap(text, fonts, width - 2 * margin), 2)
    strip_height = min(height, int(1.25 * fonts.size * len(lines) + 2 * margin))
    return text_panel([(line, fonts, WHITE) for line in lines], (width, strip_height), margin, (0, 0, 0))
