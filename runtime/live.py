"""Captions of what a camera sees now: of the newest frame, when something changed, in words that stay.

`LiveSession` decides which frames are captioned and what is on show; `run_live` lets it run beside a window.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from enum import Enum
from threading import Event, Thread
from typing import TYPE_CHECKING, Protocol

from kiloword.runtime.errors import KilowordError
from kiloword.runtime.images import load_image
from kiloword.runtime.newest import Frame, NewestFrame
from kiloword.runtime.overlays import part_seen
from kiloword.runtime.scene import Pace, SceneGate
from kiloword.runtime.stabilise import Stabiliser

if TYPE_CHECKING:
    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.captions import Caption

MAX_FPS = 5.0
"""Captions a second while things move, unless somebody wants more."""
_PER_MINUTE_WINDOW_S = 60.0
_VIEW_WAIT_S = 0.005


@dataclass(frozen=True)
class LiveCaption:
    """A caption of one frame."""

    caption: Caption
    """What was said of it."""
    frame_index: int
    """The frame's place in the video, from 0."""
    captured_at: float
    """When the frame was captured, in seconds of `time.monotonic`."""
    age_ms: float
    """How old the frame was when its caption was ready: capture to caption."""
    time: datetime
    """When the caption was ready, with its time zone."""
    at_s: float
    """The frame's place in the source's own time, in seconds."""
    shown: str
    """The words on show from now on: this caption's, or still those of an earlier one."""
    shown_since_s: float
    """Since when in the source's own time they hold."""
    changed: bool
    """Whether this caption changed them."""


@dataclass(frozen=True)
class LiveState:
    """All that a window shows beside the picture."""

    live: LiveCaption | None
    """The latest caption; None before the first."""
    growing: str
    """Words of the caption that is being written, where they will be on show; else empty."""
    trouble: str
    """Why there is no picture; else empty."""
    note: str
    """What a key did, for a moment; else empty."""
    unchanged_s: float
    """For how long nothing has changed in the picture."""
    frames_per_second: float
    """Frames that come from the source."""
    captions_per_minute: int
    """Captions made in the last minute."""
    provider: str
    """The execution provider that makes them."""
    num_beams: int
    """How many hypotheses the captions are chosen from."""
    paused: bool
    """Whether the picture stands still."""
    seen: tuple[float, float, float, float]
    """The part of the picture that the encoder sees: left, top, width and height, as shares of it."""
    attention: bool
    """Whether to show where the model looked."""


class Command(Enum):
    """What the user may ask of a running session."""

    QUIT = "quit"
    PAUSE = "pause"
    SAVE = "save"
    BEAMS = "beams"
    ATTENTION = "attention"


class LiveView(Protocol):
    """What shows frames and captions; `window.CaptionWindow` is one."""

    def show(self, frame: Frame | None, state: LiveState) -> Command | None:
        """Show a frame, if there is one yet, and what is known; returns what the user asked for."""


class _SceneGoneError(Exception):
    """The frame that is being captioned shows a scene that is over."""


class LiveSession:
    """Captions the newest frame of a source whenever something changed.

    Args:
        captioner: What captions.
        newest: Gives the frames.
        num_beams: Beams; 1 shows the words as they come and is the fastest.
        other_beams: What the key for beams changes to and back from.
        max_fps: Captions a second at most.
        save: Called with a frame and its words when the user wants to keep them; returns what to say.
    """

    def __init__(
        self,
        captioner: Captioner,
        newest: NewestFrame,
        *,
        num_beams: int = 1,
        other_beams: int = 3,
        max_fps: float = MAX_FPS,
        save: Callable[[Frame, LiveCaption | None], str] | None = None,
    ) -> None:
        self._captioner = captioner
        self._newest = newest
        self._beams = (num_beams, other_beams)
        self._save = save
        self._gate, self._pace, self._stabiliser = SceneGate(), Pace(max_fps), Stabiliser()
        self._captioned_scene: int | None = None
        self._again = False
        self._attention = False
        self._growing = ""
        self._live: LiveCaption | None = None
        self._changed_at = time.monotonic()
        self._made_at: deque[float] = deque()
        self._note, self._note_until = "", 0.0
        self.on_growing: Callable[[str], None] | None = None

    def captions(self, max_frames: int | None = None) -> Iterator[LiveCaption]:
        """Caption until the source ends.

        Args:
            max_frames: End after this many captioned frames; None for no limit.

        Raises:
            CameraError: The source gave no frame at all.
        """
        index, count, may_drop = -1, 0, True
        while max_frames is None or count < max_frames:
            frame = self._next_frame(index)
            if frame is None:
                return
            index = frame.index
            live = self._caption(frame, may_drop)
            # Never twice in a row: where each frame is another scene there would be no caption at all.
            may_drop = live is not None
            if live is not None:
                yield live
                count += 1

    def state(self) -> LiveState:
        """What a window should show now."""
        now = time.monotonic()
        return LiveState(
            live=self._live,
            growing=self._growing,
            trouble=self._newest.trouble,
            note=self._note if now < self._note_until else "",
            unchanged_s=now - self._changed_at,
            frames_per_second=self._newest.frames_per_second,
            captions_per_minute=self._captions_per_minute(now),
            provider=self._captioner.provider,
            num_beams=self._beams[0],
            paused=self._newest.paused,
            seen=self._part_seen(),
            attention=self._attention,
        )

    def obey(self, command: Command) -> None:
        """Do what the user asked for; quitting is the caller's."""
        if command is Command.PAUSE:
            self._newest.pause(not self._newest.paused)
        elif command is Command.BEAMS:
            self._beams = (self._beams[1], self._beams[0])
            self._ask_again()
            self.say(f"{self._beams[0]} beam{'' if self._beams[0] == 1 else 's'}")
        elif command is Command.ATTENTION:
            self._toggle_attention()
        elif command is Command.SAVE:
            self._save_photo()

    def say(self, note: str, seconds: float = 3.0) -> None:
        """Let the window show a short note."""
        self._note, self._note_until = note, time.monotonic() + seconds

    def _toggle_attention(self) -> None:
        if self._captioner.bundle.manifest.attention is None:
            self.say("this bundle cannot say where it looked")
            return
        self._attention = not self._attention
        if self._attention:
            self._ask_again()

    def _ask_again(self) -> None:
        """Caption what is on show once more, even while the picture stands still."""
        self._again = True
        self._newest.repeat()

    def _part_seen(self) -> tuple[float, float, float, float]:
        frame = self._newest.latest()
        if frame is None:
            return 0.0, 0.0, 1.0, 1.0
        height, width = frame.bgr.shape[:2]
        return part_seen((width, height), self._captioner.bundle.manifest.image)

    def _save_photo(self) -> None:
        frame = self._newest.latest()
        if frame is None or self._save is None:
            return
        try:
            self.say(self._save(frame, self._live))
        except (OSError, KilowordError) as error:  # a full disk must not end what somebody is watching
            self.say(f"not saved: {getattr(error, 'strerror', None) or error}")

    def _next_frame(self, index: int) -> Frame | None:
        """Wait for a frame that is worth a caption, and for the caption's turn."""
        while (frame := self._newest.wait_newer(index)) is not None:
            index = frame.index
            is_new = self._gate.is_new(frame.small)
            if is_new:
                self._changed_at = time.monotonic()
            elif not (self._again or self._stabiliser.unsure):
                continue
            wait_s = self._pace.wait_s(time.monotonic(), cut=self._is_cut(frame))
            if wait_s == 0:
                return frame
            self._newest.wait_cut(frame.scene, wait_s)
            index -= 1  # at its turn the same frame will do if there is no newer one
        return None

    def _is_cut(self, frame: Frame) -> bool:
        return frame.scene != self._captioned_scene

    def _caption(self, frame: Frame, may_drop: bool) -> LiveCaption | None:
        """Caption a frame; None if its scene was over before the words were there."""
        cut = self._is_cut(frame)
        self._pace.spend(time.monotonic())
        self._again = False
        try:
            caption = self._describe(frame, shown=cut, may_drop=may_drop)
        except _SceneGoneError:
            return None
        finally:
            self._growing = ""
        self._gate.close(frame.small)
        self._captioned_scene = frame.scene
        changed = self._stabiliser.update(caption.spoken, cut=cut, at_s=frame.at_s)
        self._made_at.append(time.monotonic())
        self._live = self._live_caption(frame, caption, changed)
        return self._live

    def _describe(self, frame: Frame, *, shown: bool, may_drop: bool) -> Caption:
        """Caption a frame word by word.

        Args:
            frame: The frame.
            shown: Whether the words will be on show whatever they are, so that they may appear as they come.
            may_drop: Whether to stop when another scene has begun meanwhile.
        """

        def on_text(_number: int, text: str) -> None:
            if may_drop and self._scene_is_gone(frame):
                raise _SceneGoneError
            if shown:
                self._growing = text
                if self.on_growing is not None:
                    self.on_growing(text)

        start = time.perf_counter()
        pixels = load_image(frame.rgb, self._captioner.bundle.manifest.image)
        (caption,) = self._captioner.caption_pixels(
            pixels[None], num_beams=self._beams[0], attention=self._attention, on_text=on_text
        )
        return replace(caption, latency_ms=1000 * (time.perf_counter() - start))

    def _scene_is_gone(self, frame: Frame) -> bool:
        newest = self._newest.latest()
        return newest is not None and newest.scene != frame.scene

    def _live_caption(self, frame: Frame, caption: Caption, changed: bool) -> LiveCaption:
        return LiveCaption(
            caption=caption,
            frame_index=frame.index,
            captured_at=frame.captured_at,
            age_ms=frame.age_ms(),
            time=datetime.now(timezone.utc),
            at_s=frame.at_s,
            shown=self._stabiliser.text or "",
            shown_since_s=self._stabiliser.since_s,
            changed=changed,
        )

    def _captions_per_minute(self, now: float) -> int:
        made_at = self._made_at
        while made_at and made_at[0] < now - _PER_MINUTE_WINDOW_S:
            made_at.popleft()
        return len(made_at)


def run_live(
    session: LiveSession,
    newest: NewestFrame,
    on_caption: Callable[[LiveCaption], None],
    view: LiveView | None = None,
    max_frames: int | None = None,
) -> None:
    """Hand on captions until the video ends or the user closes the view.

    Args:
        session: Makes them.
        newest: Gives the frames to show.
        on_caption: Called with each new caption; in a thread where there is a view.
        view: Shows frames and captions; None for no window.
        max_frames: End after this many captioned frames; None for no limit.

    Raises:
        CameraError: The source gave no frame at all.
    """
    if view is not None:
        _run_in_view(session, newest, view, on_caption, max_frames)
        return
    for live in session.captions(max_frames):
        on_caption(live)


def _run_in_view(
    session: LiveSession,
    newest: NewestFrame,
    view: LiveView,
    on_caption: Callable[[LiveCaption], None],
    max_frames: int | None,
) -> None:
    """Show the video as it comes while captions are made in a thread of their own.

    The view runs in the caller's thread, for windows work in the main thread only. A captioner that takes its
    time thus never makes the picture stutter.
    """
    worker = _CaptionWorker(session.captions(max_frames), on_caption)
    worker.start()
    try:
        while not worker.done:
            command = view.show(newest.latest(), session.state())
            if command is Command.QUIT:
                break
            if command is not None:
                session.obey(command)
            time.sleep(_VIEW_WAIT_S)
    finally:
        worker.stop()
    worker.check()


class _CaptionWorker:
    """Runs the captions in a thread; keeps the error, if there was one."""

    def __init__(self, captions: Iterator[LiveCaption], on_caption: Callable[[LiveCaption], None]) -> None:
        self._captions = captions
        self._on_caption = on_caption
        self._stop = Event()
        self._error: Exception | None = None
        self._thread = Thread(target=self._run, name="kiloword-caption", daemon=True)
        self.done = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=2.0)  # it may be waiting for a camera that gives no more frames

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for live in self._captions:
                if self._stop.is_set():
                    return
                self._on_caption(live)
        except Exception as error:  # noqa: BLE001  raised again by `check`
            self._error = error
        finally:
            self.done = True
