"""Which frames are captioned and what is on show. The captioner is a fake that says what it was told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kiloword.runtime.captioner import Captioner
from kiloword.runtime.captions import Caption
from kiloword.runtime.errors import CameraError
from kiloword.runtime.live import Command, LiveSession, LiveState, run_live
from kiloword.runtime.manifest import AttentionSpec, ImageSpec
from kiloword.runtime.newest import Frame, NewestFrame
from tests.bundles import make_tiny_bundle
from tests.sources import FakeSource, Picture, scene

TIMEOUT_S = 30.0


class FakeCaptioner:
    """Says of each scene (by its first pixel) what it was told, word by word."""

    provider = "cpu"

    def __init__(
        self,
        says: dict[int, str],
        before_each_word: Callable[[int], object] = lambda _calls: None,
        *,
        attends: bool = False,
    ) -> None:
        spec = AttentionSpec(grid_height=1, grid_width=1, leading_tokens=0, queries={}) if attends else None
        manifest = SimpleNamespace(image=ImageSpec(height=96, width=128), attention=spec)
        self.bundle = SimpleNamespace(manifest=manifest)
        self._says = {tuple(scene(seed)[0, 0, ::-1].tolist()): text for seed, text in says.items()}
        self._before_each_word = before_each_word
        self.calls = 0
        self.beams: list[int] = []
        self.attention: list[bool] = []

    def caption_pixels(
        self, pixels: Picture, *, num_beams: int, attention: bool, on_text: Callable[[int, str], None]
    ) -> list[Caption]:
        self.calls += 1
        self.beams.append(num_beams)
        self.attention.append(attention)
        text = self._says[tuple(pixels[0, 0, 0].tolist())]
        words = text.split()
        for count in range(1, len(words) + 1):
            self._before_each_word(self.calls)
            on_text(0, " ".join(words[:count]))
        return [Caption(text, 0.5, (), (), 1.0, "fake")]


class FakeView:
    """Counts what it is shown and asks for things at given frames."""

    def __init__(self, asks: dict[int, Command] | None = None) -> None:
        self.states: list[LiveState] = []
        self._asks = asks or {}

    def show(self, frame: Frame | None, state: LiveState) -> Command | None:
        self.states.append(state)
        return self._asks.get(len(self.states))


def session_of(captioner: FakeCaptioner, newest: NewestFrame, **settings: Any) -> LiveSession:
    return LiveSession(cast(Captioner, captioner), newest, **settings)


class Stage:
    """A camera that shows the next picture when the test says so, and a session that captions it."""

    def __init__(self, captioner: FakeCaptioner, pictures: list[Picture], **settings: Any) -> None:
        self._released = threading.Semaphore(0)
        self.source = FakeSource(pictures, recorded=True, frames_per_second=1e6, before_each=self._wait)
        self.newest = NewestFrame(self.source)
        self.session = session_of(captioner, self.newest, **settings)

    def _wait(self) -> None:
        self._released.acquire(timeout=TIMEOUT_S)

    def shoot(self, frames: int = 1) -> None:
        before = self.newest.frames_read
        self._released.release(frames)
        deadline = time.monotonic() + TIMEOUT_S
        while self.newest.frames_read < before + frames:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def end(self) -> None:
        self._released.release(len(self.source._pictures) + 1)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    directory: Path = tmp_path_factory.mktemp("bundle")
    make_tiny_bundle(directory)
    return Captioner.load(directory, provider="cpu", threads=1)


def test_a_still_scene_is_captioned_once() -> None:
    """100 frames of it, and then of another one."""
    captioner = FakeCaptioner({0: "a dog", 1: "a cat"})
    source = FakeSource([scene(0)] * 100 + [scene(1)] * 100, frames_per_second=400.0)
    with NewestFrame(source) as newest:
        captions = list(session_of(captioner, newest).captions())
    assert [live.shown for live in captions] == ["a dog", "a cat"]
    assert all(live.changed for live in captions)
    assert captioner.calls == 2


def test_a_caption_carries_frame_age_and_time(captioner: Captioner) -> None:
    """Age runs from capture to caption, so it is at least the captioner's own time."""
    with NewestFrame(FakeSource([scene(seed) for seed in range(20)], frames_per_second=20.0)) as newest:
        captions = list(LiveSession(captioner, newest, max_fps=1000).captions())
    indexes = [live.frame_index for live in captions]
    assert indexes == sorted(set(indexes))
    assert indexes[-1] == 19
    assert all(live.age_ms >= live.caption.latency_ms > 0 for live in captions)
    assert all(live.at_s == pytest.approx(live.frame_index / 20) for live in captions)


def test_max_frames_counts_captions(captioner: Captioner) -> None:
    with NewestFrame(FakeSource([scene(seed) for seed in range(200)])) as newest:
        assert len(list(LiveSession(captioner, newest, max_fps=1000).captions(max_frames=3))) == 3


def test_words_that_wobble_change_nothing_on_show() -> None:
    """The picture moves all the time (no cut), and each caption words the same differently."""
    moving = [np.roll(scene(0), 2 * step, axis=1) for step in range(12)]
    says = ["a dog in the grass", "the dogs on grass", "a dog and grass"]

    class Wobbling(FakeCaptioner):
        def caption_pixels(self, pixels: Picture, **_: Any) -> list[Caption]:
            self.calls += 1
            return [Caption(says[self.calls % 3], 0.5, (), (), 1.0, "fake")]

    wobbling = Wobbling({})
    with NewestFrame(FakeSource(moving, frames_per_second=100.0)) as newest:
        captions = list(session_of(wobbling, newest, max_fps=1000).captions())
    assert wobbling.calls > 2
    assert len({live.shown for live in captions}) == 1
    assert [live.changed for live in captions].count(True) == 1


def test_an_opinion_that_changes_in_a_scene_that_stands_still_again_is_asked_once_more() -> None:
    """Something moved a little: the new words need a second caption, though nothing moves any more."""
    before, after = scene(0), scene(0)
    after[:32, :32] = 255 - after[:32, :32]
    captioner = FakeCaptioner({0: "a dog on grass"})
    captioner._says[tuple(after[0, 0, ::-1].tolist())] = "a woman with an umbrella"
    source = FakeSource([before] * 20 + [after] * 60, frames_per_second=100.0)
    with NewestFrame(source) as newest:
        captions = list(session_of(captioner, newest, max_fps=1000).captions())
    assert [live.shown for live in captions] == [
        "a dog on grass",
        "a dog on grass",
        "a woman with an umbrella",
    ]
    assert captions[-1].shown_since_s == captions[1].at_s
    assert captioner.calls == 3


def test_a_caption_of_a_scene_that_is_over_is_dropped() -> None:
    """The scene is cut while the second word is written: that caption never appears, the new scene's does."""

    def cut(calls: int) -> None:
        if calls == 1 and stage.newest.frames_read == 1:
            stage.shoot()

    captioner = FakeCaptioner({0: "a dog runs on grass", 1: "a cat"}, cut)
    stage = Stage(captioner, [scene(0), scene(1)])
    with stage.newest:
        threading.Thread(target=stage.shoot).start()
        live = next(stage.session.captions())
        stage.end()
    assert (live.shown, live.frame_index) == ("a cat", 1)
    assert captioner.calls == 2


def test_where_every_frame_is_another_scene_there_are_captions_still() -> None:
    """A strobe: one caption may be dropped, never two in a row."""

    def cut(_calls: int) -> None:
        if stage.newest.frames_read < 9:
            stage.shoot()

    captioner = FakeCaptioner({0: "a dog runs", 1: "a cat sits"}, cut)
    stage = Stage(captioner, [scene(seed % 2) for seed in range(9)], max_fps=1000)
    with stage.newest:
        threading.Thread(target=stage.shoot).start()
        assert next(stage.session.captions()).shown in ("a dog runs", "a cat sits")
        stage.end()
    assert captioner.calls == 2


def test_the_words_of_a_new_scene_grow_on_show() -> None:
    grown: list[str] = []
    with NewestFrame(FakeSource([scene(0)])) as newest:
        session = session_of(FakeCaptioner({0: "a dog runs"}), newest)
        session.on_growing = lambda _words: grown.append(session.state().growing)
        list(session.captions())
        assert session.state().growing == ""
    assert grown == ["a", "a dog", "a dog runs"]


def test_the_words_of_a_caption_that_may_not_be_shown_do_not_grow() -> None:
    """In a scene that goes on they would flicker beside those that hold."""
    before, after = scene(0), scene(0)
    after[64:, 64:] = 255 - after[64:, 64:]
    grown: list[str] = []
    with NewestFrame(FakeSource([before] * 20 + [after] * 20)) as newest:
        session = session_of(FakeCaptioner({0: "a dog"}), newest)
        session.on_growing = grown.append
        assert len(list(session.captions())) == 2
    assert grown == ["a", "a dog"]


def test_the_rate_is_kept() -> None:
    """Half a second of movement at 10 captions a second: 5, and at most 2 from the reserve for cuts."""
    moving = [np.roll(scene(0), 2 * step, axis=1) for step in range(50)]

    class Talking(FakeCaptioner):
        def caption_pixels(self, pixels: Picture, **_: Any) -> list[Caption]:
            self.calls += 1
            return [Caption("a dog", 0.5, (), (), 1.0, "fake")]

    start = time.monotonic()
    captioner = Talking({})
    with NewestFrame(FakeSource(moving, frames_per_second=100.0)) as newest:
        list(session_of(captioner, newest, max_fps=10).captions())
    assert captioner.calls <= 10 * (time.monotonic() - start) + 2


def test_the_view_shows_while_captions_are_made() -> None:
    """A caption that takes 0.2 s: the picture must go on moving meanwhile."""
    captioner = FakeCaptioner({0: "a dog"}, lambda _: time.sleep(0.1))
    view, got = FakeView(), []
    with NewestFrame(FakeSource([scene(0)] * 30)) as newest:
        run_live(session_of(captioner, newest), newest, got.append, view)
    assert [live.shown for live in got] == ["a dog"]
    assert len([state for state in view.states if state.live is None]) > 4
    assert {state.growing for state in view.states} >= {"", "a"}


def test_what_the_view_asks_for_is_done() -> None:
    """Space twice, beams, save, and quit; the beams cause another caption of the same scene."""
    captioner = FakeCaptioner({0: "a dog"})
    saved: list[int] = []

    def save(frame: Frame, live: object) -> str:
        saved.append(frame.index)
        return "saved it"

    asks = {20: Command.PAUSE, 30: Command.PAUSE, 40: Command.BEAMS, 50: Command.SAVE, 120: Command.QUIT}
    view = FakeView(asks)
    start = time.monotonic()
    with NewestFrame(FakeSource([scene(0)] * 100_000)) as newest:
        run_live(session_of(captioner, newest, save=save), newest, lambda _: None, view)
    assert time.monotonic() - start < TIMEOUT_S
    assert len(view.states) == 120
    assert {state.paused for state in view.states[20:29]} == {True}
    assert not view.states[31].paused
    assert view.states[45].num_beams == 3
    assert captioner.beams == [1, 3]
    assert len(saved) == 1
    assert view.states[55].note == "saved it"


@pytest.mark.parametrize("command", [Command.BEAMS, Command.ATTENTION])
def test_a_paused_picture_is_captioned_anew_when_something_else_is_asked(command: Command) -> None:
    """The picture stands still, so that no newer frame will come."""
    captioner = FakeCaptioner({0: "a dog"}, attends=True)
    asks = {20: Command.PAUSE, 40: command, 100: Command.QUIT}
    view = FakeView(asks)
    with NewestFrame(FakeSource([scene(0)] * 100_000)) as newest:
        run_live(session_of(captioner, newest), newest, lambda _: None, view)
    assert view.states[90].paused
    assert captioner.calls == 2
    assert (captioner.beams[1], captioner.attention[1]) == (
        (3, False) if command is Command.BEAMS else (1, True)
    )


def test_where_the_model_looked_is_shown_until_the_next_press() -> None:
    captioner = FakeCaptioner({0: "a dog"}, attends=True)
    view = FakeView({20: Command.ATTENTION, 60: Command.ATTENTION, 80: Command.QUIT})
    with NewestFrame(FakeSource([scene(0)] * 100_000)) as newest:
        run_live(session_of(captioner, newest), newest, lambda _: None, view)
    assert [view.states[number].attention for number in (10, 30, 70)] == [False, True, False]
    assert captioner.attention == [False, True]


def test_a_bundle_without_attention_says_so() -> None:
    captioner = FakeCaptioner({0: "a dog"})
    view = FakeView({20: Command.ATTENTION, 40: Command.QUIT})
    with NewestFrame(FakeSource([scene(0)] * 100_000)) as newest:
        run_live(session_of(captioner, newest), newest, lambda _: None, view)
    assert "cannot say where it looked" in view.states[30].note
    assert not view.states[30].attention


def test_a_photo_that_cannot_be_saved_is_said_and_ends_nothing() -> None:
    def save(frame: Frame, live: object) -> str:
        raise OSError(28, "No space left on device")

    view = FakeView({20: Command.SAVE, 40: Command.QUIT})
    with NewestFrame(FakeSource([scene(0)] * 100_000)) as newest:
        run_live(session_of(FakeCaptioner({0: "a dog"}), newest, save=save), newest, lambda _: None, view)
    assert view.states[25].note == "not saved: No space left on device"


@pytest.mark.parametrize("view", [None, FakeView()], ids=["headless", "window"])
def test_errors_of_the_camera_come_out(view: FakeView | None) -> None:
    with NewestFrame(FakeSource([])) as newest, pytest.raises(CameraError, match="gives no frames"):
        run_live(session_of(FakeCaptioner({}), newest), newest, lambda _: None, view)


def test_the_state_counts_and_names() -> None:
    with NewestFrame(FakeSource([scene(0)] * 20 + [scene(1)] * 20)) as newest:
        session = session_of(FakeCaptioner({0: "a dog", 1: "a cat"}), newest)
        assert session.state().live is None
        list(session.captions())
        state = session.state()
    assert (state.captions_per_minute, state.provider, state.num_beams) == (2, "cpu", 1)
    assert state.live is not None
    assert state.live.shown == "a cat"
    assert 50 < state.frames_per_second < 150
    assert state.trouble == ""
