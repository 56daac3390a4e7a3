"""The webcam's window: the picture, and below it what it shows, how sure that is, and how old."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kiloword.runtime.camera import Frame, import_cv2
from kiloword.runtime.errors import CameraError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kiloword.runtime.live import LiveCaption

_TITLE = "kiloword"
_POLL_MS = 15
_ESCAPE = 27
_MIN_WIDTH = 480
_BACKGROUND = (24, 24, 24)
_CAPTION_COLOUR = (255, 255, 255)
_FACTS_COLOUR = (170, 170, 170)
_MARGIN = 14
_CAPTION_LINES = 2

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class CaptionWindow:
    """A window that shows frames with their caption until q, Escape or its close button is pressed.

    Text is drawn with Pillow: OpenCV's own fonts know ASCII only.

    Raises:
        CameraError: There is no display, or this OpenCV was built without windows.
        MissingDependencyError: OpenCV is not installed.
    """

    def __init__(self) -> None:
        self._cv2 = import_cv2()
        _check_display()
        try:
            self._cv2.namedWindow(_TITLE, self._window_flags())
        except self._cv2.error as error:
            raise CameraError(
                "this OpenCV shows no windows",
                expected="opencv-python",
                found="opencv-python-headless",
                hint="kiloword webcam --headless",
            ) from error
        self._shown_size: tuple[int, int] | None = None

    def __enter__(self) -> CaptionWindow:
        return self

    def __exit__(self, *exception: object) -> None:
        self._cv2.destroyAllWindows()

    def show(self, frame: Frame, live: LiveCaption | None) -> bool:
        """Show a frame with the latest caption and handle keys; False when the user wants to end."""
        picture = compose(frame.bgr, live)
        size = (picture.shape[1], picture.shape[0])
        if self._shown_size is None:
            self._cv2.resizeWindow(_TITLE, *size)
        elif self._closed():
            return False
        self._shown_size = size
        self._cv2.imshow(_TITLE, picture)
        key = self._cv2.waitKey(_POLL_MS) & 0xFF
        return key not in (ord("q"), _ESCAPE)

    def _window_flags(self) -> int:
        cv2 = self._cv2
        # GUI_NORMAL: without Qt's toolbar, whose buttons have nothing to do with captions.
        return int(cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)

    def _closed(self) -> bool:
        try:
            return bool(self._cv2.getWindowProperty(_TITLE, self._cv2.WND_PROP_VISIBLE) < 1)
        except self._cv2.error:  # OpenCV 5 raises for a window that is gone, OpenCV 4 gives -1
            return True


def _check_display() -> None:
    """Qt aborts the whole process where there is no display, so look before opening a window."""
    has_own_display = sys.platform in ("win32", "darwin")
    if not has_own_display and not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
        raise CameraError("there is no display to show a window on", hint="kiloword webcam --headless")


def compose(bgr: NDArray[np.uint8], live: LiveCaption | None) -> NDArray[np.uint8]:
    """Put a panel with the caption below a frame.

    Args:
        bgr: uint8 (height, width, 3), blue first.
        live: The latest caption, or None before the first.

    Returns:
        uint8 (height + panel, width, 3), blue first; small frames are enlarged so that text has room.
    """
    enlarge = -(-_MIN_WIDTH // bgr.shape[1])
    picture = bgr if enlarge == 1 else bgr.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    panel = _draw_panel(picture.shape[1], live)
    return np.concatenate([picture, panel[:, :, ::-1]], axis=0)


def _draw_panel(width: int, live: LiveCaption | None) -> NDArray[np.uint8]:
    """Caption and facts on a dark strip; uint8 (panel height, width, 3), red first."""
    text_size = max(18, width // 32)
    caption_font, facts_font = _load_font(text_size), _load_font(text_size * 2 // 3)
    line_height, facts_height = text_size * 5 // 4, text_size
    panel = Image.new("RGB", (width, 2 * _MARGIN + _CAPTION_LINES * line_height + facts_height), _BACKGROUND)
    draw = ImageDraw.Draw(panel)
    lines = wrap(live.caption.spoken if live else "...", caption_font, width - 2 * _MARGIN)
    for number, line in enumerate(lines[:_CAPTION_LINES]):
        draw.text((_MARGIN, _MARGIN + number * line_height), line, _CAPTION_COLOUR, caption_font)
    facts_top = _MARGIN + _CAPTION_LINES * line_height
    draw.text((_MARGIN, facts_top), _facts(live), _FACTS_COLOUR, facts_font)
    return np.asarray(panel)


def _facts(live: LiveCaption | None) -> str:
    if live is None:
        return "looking"
    # The age on screen grows until the next caption: it is the age of what the words describe.
    age_ms = (time.monotonic() - live.captured_at) * 1000.0
    return (
        f"confidence {live.caption.confidence:.2f}   {age_ms:.0f} ms old   frame {live.frame_index}   q quits"
    )


_fonts: dict[int, Any] = {}


def _load_font(size: int) -> _Font:
    """DejaVu, which knows most alphabets, where the system has it; else the font that comes with Pillow."""
    if size not in _fonts:
        try:
            _fonts[size] = ImageFont.truetype("DejaVuSans.ttf", size)
        except OSError:
            _fonts[size] = ImageFont.load_default(size)
    font: _Font = _fonts[size]
    return font


def wrap(text: str, font: _Font, width: int) -> list[str]:
    """Break text between words into lines of at most this many pixels; a word that is wider stands alone."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
