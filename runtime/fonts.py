"""A font that can write a text: what a picture says must be legible in any language.

The font inside Pillow knows ASCII and little more, so fonts of the system are asked first; which of them has
a character is seen by drawing it. Where none of the usual ones has it, fontconfig is asked for others, and
without fontconfig the system's font folders are searched.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

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
_PROBE_SIZE = 16
_SUFFIXES = (".ttf", ".ttc", ".otf")
_FOLDERS = {
    "win32": ("%WINDIR%/Fonts", "%LOCALAPPDATA%/Microsoft/Windows/Fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
}
_OTHER_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
_STYLES = ("bold", "italic", "oblique", "mono", "light", "black", "thin", "condensed")
_MOST_SEARCHED = 300
_FONTCONFIG_TIMEOUT_S = 10


class Measure(Protocol):
    """What knows how wide a text will be: a font, or a `FontSet`."""

    def getlength(self, text: str) -> float:
        """Pixels from its left to its right."""


class FontSet:
    """Fonts of one size: each word has the first that has all its characters.

    Args:
        size: Height in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.space = font_for("", size).getlength(" ")

    def getlength(self, text: str) -> float:
        """Pixels from the left to the right of a text."""
        words = text.split(" ")
        return sum(font_for(word, self.size).getlength(word) for word in words) + self.space * (
            len(words) - 1
        )


def font_for(text: str, size: int) -> Font:
    """The first font of the system that has all characters of a text.

    Where none has all of them, the one with the most is taken, and that is logged once.

    Args:
        text: What will be written.
        size: Height in pixels.
    """
    wanted = frozenset(character for character in text if not character.isspace())
    font = _load(_best_font(wanted), size)
    return ImageFont.load_default(size) if font is None else font


@lru_cache(maxsize=4096)
def _best_font(wanted: frozenset[str]) -> str | None:
    """Its file name; None for the font inside Pillow."""
    best, fewest = None, len(wanted) + 1
    for name in (*_CANDIDATES, None):
        missing = _count_missing(name, wanted)
        if missing is not None and missing < fewest:
            best, fewest = name, missing
        if missing == 0:
            return name
    found = next((name for name in _search(wanted) if _count_missing(name, wanted) == 0), None)
    if found is None:
        _log.warning("no font here has all characters of %r", "".join(sorted(wanted)))
    return found or best


def _count_missing(name: str | None, wanted: frozenset[str]) -> int | None:
    """How many characters a font has not; None if the font is not there."""
    font = _load(name, _PROBE_SIZE)
    if font is None:
        return None
    nothing = bytes(font.getmask(_NO_CHARACTER))
    return sum(bytes(font.getmask(character)) == nothing for character in wanted)


@lru_cache(maxsize=512)
def _load(name: str | None, size: int) -> Font | None:
    """A font by its name or path, or for None the font inside Pillow; None if it is not there."""
    try:
        return ImageFont.load_default(size) if name is None else ImageFont.truetype(name, size)
    except OSError:
        return None


def _search(wanted: frozenset[str]) -> Sequence[str]:
    """Files of fonts that may have all these characters, plain faces first."""
    found = _from_fontconfig(wanted)
    return _from_folders() if found is None else found


def _from_fontconfig(wanted: frozenset[str]) -> Sequence[str] | None:
    """None where fontconfig is not installed."""
    program = shutil.which("fc-list")
    if program is None:
        return None
    charset = " ".join(f"{ord(character):x}" for character in sorted(wanted))
    try:
        done = subprocess.run(
            [program, f":charset={charset}", "--format=%{file}\n"],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=_FONTCONFIG_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    files = {line for line in done.stdout.splitlines() if line.lower().endswith(_SUFFIXES)}
    return sorted(files, key=_preference)


@lru_cache(maxsize=1)
def _from_folders() -> Sequence[str]:
    return sorted(_font_files(), key=_preference)[:_MOST_SEARCHED]


def _font_files() -> Iterator[str]:
    for name in _FOLDERS.get(sys.platform, _OTHER_FOLDERS):
        folder = Path(os.path.expandvars(name)).expanduser()
        yield from (str(path) for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def _preference(path: str) -> tuple[bool, bool, int, str]:
    """Plain faces before bold and slanted ones; Noto before others, for it was made for every alphabet."""
    name = Path(path).name.lower()
    return any(style in name for style in _STYLES), not name.startswith("noto"), len(name), path


def wrap(text: str, font: Measure, width: float) -> list[str]:
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


def _cut(word: str, font: Measure, width: float) -> list[str]:
    pieces = [""]
    for character in word:
        if pieces[-1] and font.getlength(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


def shorten(text: str, font: Measure, width: float) -> str:
    """The text, or as much of its beginning as fits before an ellipsis."""
    if font.getlength(text) <= width:
        return text
    end = len(text)
    while end > 0 and font.getlength(text[:end].rstrip() + "...") > width:
        end -= 1
    return text[:end].rstrip() + "..."
