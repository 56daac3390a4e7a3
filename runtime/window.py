"""The webcam's window: the picture, and below it what it shows, how sure that is, and how old."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from kiloword.runtime.camera import import_cv2
from kiloword.runtime.errors import CameraError
from kiloword.runtime.fonts import FontSet, shorten, wrap
from kiloword.runtime.live import Command, LiveState
from kiloword.runtime.overlay import WHITE, Colour, at_most, text_panel
from kiloword.runtime.overlays import lay_over
from kiloword.runtime.scene import largest_change
from kiloword.runtime.stabilise import content_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kiloword.runtime.newest import Frame

_TITLE = "kiloword"
_POLL_MS = 15
_IDLE_POLL_MS = 40  # how long a key waits while nothing moves
_IDLE_REDRAW_S = 0.5
_STILL_LEVELS = 3.0  # what moves less than this is the sensor's noise and need not be drawn 30 times a second
_ESCAPE = 27
_WORD_S = 0.8  # how long each word's attention is shown
_LIT_WIDTH = 640
_FIRST_WIDTH, _FIRST_PICTURE_HEIGHT = 640, 540  # with its panel it fits a screen of 768 rows
_LEAST_WIDTH, _LEAST_HEIGHT = 240, 180
_BACKGROUND: Colour = (24, 24, 24)
_GREY: Colour = (170, 170, 170)
_AMBER: Colour = (255, 190, 90)
_CAPTION_LINES = 2
_COMMANDS = {
    ord("q"): Command.QUIT,
    ord(" "): Command.PAUSE,
    ord("s"): Command.SAVE,
    ord("b"): Command.BEAMS,
    ord("a"): Command.ATTENTION,
}
_HELP = (
    "space   pause and go on",
    "s   save the photo with its caption",
    "a   where the model looked, word by word",
    "b   more beams, or one",
    "f   full screen",
    "h   this help",
    "q   quit",
)


class CaptionWindow:
    """A window that shows frames with their caption until q, Escape or its close button is pressed.

    Text is drawn with Pillow: OpenCV's own fonts know few alphabets. What is shown is laid out anew for the
    window's size, so text stays sharp and the picture keeps its shape.

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
        self._opened = False
        self._help = False
        self._full_screen = False
        self._panel = _Panel()
        self._drawn: tuple[Any, ...] = ()
        self._drawn_frame: Frame | None = None
        self._drawn_at = 0.0

    def __enter__(self) -> CaptionWindow:
        return self

    def __exit__(self, *exception: object) -> None:
        self._cv2.destroyAllWindows()

    def show(self, frame: Frame | None, state: LiveState) -> Command | None:
        """Show a frame, if there is one yet, and what is known; returns what the user asked for."""
        if self._opened and self._closed():
            return Command.QUIT
        moved = self._draw(frame, state) if frame is not None else False
        key = self._cv2.waitKey(_POLL_MS if moved else _IDLE_POLL_MS) & 0xFF
        return self._press(key)

    def _press(self, key: int) -> Command | None:
        if key == _ESCAPE:
            if not self._full_screen:
                return Command.QUIT
            key = ord("f")
        if key == ord("h"):
            self._help = not self._help
        elif key == ord("f"):
            self._full_screen = not self._full_screen
            mode = self._cv2.WINDOW_FULLSCREEN if self._full_screen else self._cv2.WINDOW_NORMAL
            self._cv2.setWindowProperty(_TITLE, self._cv2.WND_PROP_FULLSCREEN, mode)
        return _COMMANDS.get(key)

    def _draw(self, frame: Frame, state: LiveState) -> bool:
        """Draw what changed; returns whether the picture moves."""
        size = self._size(frame)
        lines = self._panel.describe(state)
        now, last = time.monotonic(), self._drawn_frame
        moved = last is not None and largest_change(last.small, frame.small) > _STILL_LEVELS
        drawn = (size, lines, self._help)
        if not moved and drawn == self._drawn and now - self._drawn_at < _IDLE_REDRAW_S:
            return False
        self._drawn, self._drawn_frame, self._drawn_at = drawn, frame, now
        panel = self._panel.draw(lines, size)
        bgr = self._lit(frame.bgr, state) if state.attention else frame.bgr
        picture = fit(self._cv2, bgr, (size[0], size[1] - panel.shape[0]))
        if self._help:
            _lay_over(picture, _help_panel(size[0]))
        self._cv2.imshow(_TITLE, np.concatenate([picture, panel[:, :, ::-1]], axis=0))
        return moved

    def _lit(self, bgr: NDArray[np.uint8], state: LiveState) -> NDArray[np.uint8]:
        """The picture, lit where the model looked for the word whose turn it is."""
        looked = looked_at(state)
        if looked is None:
            return bgr
        scale = min(1.0, _LIT_WIDTH / bgr.shape[1])  # the map is coarse, and a large picture takes too long
        small = self._cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=self._cv2.INTER_AREA)
        height, width = small.shape[:2]
        left, top = round(state.seen[0] * width), round(state.seen[1] * height)
        right, bottom = left + round(state.seen[2] * width), top + round(state.seen[3] * height)
        lit: NDArray[np.uint8] = small // 3  # what lies outside was not seen at all
        part = lay_over(small[top:bottom, left:right, ::-1], looked[1])
        lit[top:bottom, left:right] = part[:, :, ::-1]
        return lit

    def _size(self, frame: Frame) -> tuple[int, int]:
        """Width and height to draw: the window's, or at first the frame's own, within reason."""
        if not self._opened:
            height, width = frame.bgr.shape[:2]
            scale = max(1.0, _FIRST_WIDTH / width) * min(1.0, _FIRST_PICTURE_HEIGHT / height)
            size = (round(width * scale), round(height * scale))
            size = (size[0], size[1] + self._panel.height(size[0]))
            self._cv2.resizeWindow(_TITLE, *size)
            self._opened = True
            return size
        _, _, width, height = self._cv2.getWindowImageRect(_TITLE)
        return max(_LEAST_WIDTH, width), max(_LEAST_HEIGHT, height)

    def _window_flags(self) -> int:
        cv2 = self._cv2
        # GUI_NORMAL: without Qt's toolbar, whose buttons have nothing to do with captions.
        return int(cv2.WINDOW_NORMAL | cv2.WINDOW_FREERATIO | cv2.WINDOW_GUI_NORMAL)

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


def fit(cv2: Any, bgr: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale a picture into a box of this width and height; what it does not fill is dark.

    Args:
        cv2: OpenCV.
        bgr: uint8 (height, width, 3).
        size: Width and height of the box.

    Returns:
        uint8 (size[1], size[0], 3), a copy.
    """
    width, height = size
    scale = min(width / bgr.shape[1], height / bgr.shape[0])
    inner = max(1, round(bgr.shape[1] * scale)), max(1, round(bgr.shape[0] * scale))
    box: NDArray[np.uint8] = np.full((height, width, 3), _BACKGROUND[0], dtype=np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    if inner == (bgr.shape[1], bgr.shape[0]):
        scaled = bgr
    else:
        scaled = cv2.resize(bgr, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    box[top : top + inner[1], left : left + inner[0]] = scaled
    return box


class _Panel:
    """The strip below the picture; drawn again only when its words change, for letters are slow to draw."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._pixels: NDArray[np.uint8] | None = None

    def height(self, width: int) -> int:
        """Its height at this width; always the same, so that the picture does not jump."""
        caption, facts = _fonts(width)
        return int(1.25 * (_CAPTION_LINES * caption.size + 2 * facts.size)) + 2 * _margin(width)

    def describe(self, state: LiveState) -> tuple[str, str, str, bool]:
        """What it says: the caption, the facts about it and about the run, whether there is trouble."""
        return (
            caption_of(state),
            facts_of(state),
            state.trouble or state.note or run_of(state),
            bool(state.trouble or state.note),
        )

    def draw(self, words: tuple[str, str, str, bool], size: tuple[int, int]) -> NDArray[np.uint8]:
        """Pixels, uint8 (panel height, width, 3), red first; never more than half of the window."""
        width = size[0]
        height = min(self.height(width), size[1] // 2)
        key = (words, width, height)
        if self._pixels is None or key != self._key:
            self._key, self._pixels = key, self._render(words, width, height)
        return self._pixels

    def _render(self, words: tuple[str, str, str, bool], width: int, height: int) -> NDArray[np.uint8]:
        caption, facts, run, trouble = words
        large, small = _fonts(width)
        room = width - 2 * _margin(width)
        lines = at_most(wrap(caption, large, room), _CAPTION_LINES)
        lines += [""] * (_CAPTION_LINES - len(lines))
        styled = [(line, large, WHITE) for line in lines]
        styled.append((shorten(facts, small, room), small, _GREY))
        styled.append((shorten(run, small, room), small, _AMBER if trouble else _GREY))
        return text_panel(styled, (width, height), _margin(width), _BACKGROUND)


def _margin(width: int) -> int:
    return max(6, width // 50)


def _fonts(width: int) -> tuple[FontSet, FontSet]:
    size = max(14, width // 30)
    return FontSet(size), FontSet(max(11, size * 2 // 3))


def caption_of(state: LiveState) -> str:
    """The words to show: those that are being written, if the scene is new, else those that hold."""
    if state.growing:
        return f"{state.growing} …"
    return state.live.shown if state.live else "…"


def facts_of(state: LiveState) -> str:
    """How sure the caption is, and how old its frame was when the words were there."""
    if state.live is None:
        return "looking"
    facts = f"confidence {state.live.caption.confidence:.2f}   age {state.live.age_ms:.0f} ms"
    return facts if state.unchanged_s < 1 else f"{facts}   unchanged for {state.unchanged_s:.0f} s"


def looked_at(state: LiveState) -> tuple[str, NDArray[np.float32]] | None:
    """The word whose turn it is and where the model looked for it; words take turns."""
    if state.live is None or state.growing:  # the words that are being written are another picture's
        return None
    caption = state.live.caption
    maps: NDArray[np.float32] | None = caption.attention
    numbers = [number for number, word in enumerate(caption.words) if content_words(word)]
    if maps is None or not numbers or not caption.reliable:
        return None
    number = numbers[int(time.monotonic() / _WORD_S) % len(numbers)]
    return caption.words[number], maps[number]


def run_of(state: LiveState) -> str:
    """How fast it goes, and on what."""
    looked = looked_at(state) if state.attention else None
    if looked is not None:
        return f"where it looked for “{looked[0]}”"
    if state.paused:
        return "paused: space goes on"
    return (
        f"{state.frames_per_second:.0f} fps   {state.captions_per_minute} captions/min   {state.provider}"
        f"   {'greedy' if state.num_beams == 1 else f'{state.num_beams} beams'}   h help"
    )


def _help_panel(width: int) -> NDArray[np.uint8]:
    _, fonts = _fonts(width)
    margin = _margin(width)
    text_width = max(fonts.getlength(line) for line in _HELP)
    size = (int(text_width) + 2 * margin, int(1.25 * fonts.size * len(_HELP)) + 2 * margin)
    return text_panel([(line, fonts, WHITE) for line in _HELP], size, margin, _BACKGROUND)


def _lay_over(picture: NDArray[np.uint8], panel: NDArray[np.uint8]) -> None:
    """Put a panel into the upper left corner of a picture, in place, as far as there is room."""
    height, width = min(panel.shape[0], picture.shape[0]), min(panel.shape[1], picture.shape[1])
    picture[:height, :width] = panel[:height, :width, ::-1]
