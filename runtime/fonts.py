"""A font that can write a text: what a picture says must be legible in any language.

The font inside Pillow knows ASCII and little more, so fonts of the system are asked first; which of them has
a character is seen by drawing it.
"""

from __future__ import annotations

import logging
from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_log = logging.getLogger(__name__)

# By file name, as Pillow finds them in the folders of Linux, macOS and Windows: first those for most
# alphabets, then those for Chinese, Japanese, Korean, Arabic, Devanagari and Thai.
_CANDIDATES = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf"),
    *("segoeui.ttf", "Helvetica.ttc", "FreeSans.ttf", "Arial Unicode.ttf", "arialuni.ttf"),
    *("NotoSansCJK-Regular.ttc", "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf", "wqy-microhei.ttc"),
    *("msyh.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "YuGothR.ttc", "malgun.ttf", "AppleGothic.ttf"),
    *("NotoSansArabic-Regular.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf"),
    *("Nirmala.ttf", "tahoma.ttf"),
)
_NO_CHARACTER = "\U000effff"


def font_for(text: str, size: int) -> Font:
    """The first font of the system that has all characters of a text.

    Where none has all of them, the one with the most is taken, and that is logged once.

    Args:
        text: What will be written.
        size: Height in pixels.
    """
    wanted = frozenset(character for character in text if not character.isspace())
    name = _best_font(wanted)
    return ImageFont.load_default(size) if name is None else ImageFont.truetype(name, size)


@lru_cache(maxsize=256)
def _best_font(wanted: frozenset[str]) -> str | None:
    """Its file name; None for the font inside Pillow."""
    best, fewest = None, len(wanted) + 1
    for name in (*_CANDIDATES, None):
        missing = _count_missing(name, wanted)
        if missing is not None and missing < fewest:
            best, fewest = name, missing
        if missing == 0:
            return name
    _log.warning("no font here has all characters of %r", "".join(sorted(wanted)))
    return best


def _count_missing(name: str | None, wanted: frozenset[str]) -> int | None:
    """How many characters a font has not; None if the font is not there."""
    try:
        font = ImageFont.load_default(16) if name is None else ImageFont.truetype(name, 16)
    except OSError:
        return None
    nothing = bytes(font.getmask(_NO_CHARACTER))
    return sum(bytes(font.getmask(character)) == nothing for character in wanted)


def wrap(text: str, font: Font, width: int) -> list[str]:
    """Break a text into lines that fit, between words where that is possible.

    Args:
        text: Any text; its own line breaks count as spaces.
        font: What it will be written with.
        width: Pixels of a line.

    Returns:
        At least one line; a word that is too long for one is cut.
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        pieces = _cut(word, font, width)
        lines += pieces if lines[-1] else []
        if not lines[-1]:
            lines[-1:] = pieces
    return lines


def _cut(word: str, font: Font, width: int) -> list[str]:
    pieces = [""]
    for character in word:
        if pieces[-1] and font.getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


def shorten(text: str, font: Font, width: int) -> str:
    """The text, or as much of its beginning as fits before an ellipsis."""
    if font.getlength(text) <= width:
        return text
    end = len(text)
    while end > 0 and font.getlength(text[:end].rstrip() + "...") > width:
        end -= 1
    return text[:end].rstrip() + "..."
