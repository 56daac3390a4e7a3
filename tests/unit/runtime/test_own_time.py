"""A film captioned at its own time. The captioner says what the picture is; the film is made here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kiloword.runtime.captioner import Captioner
from kiloword.runtime.captions import Caption
from kiloword.runtime.errors import CameraError
from kiloword.runtime.live import LiveCaption
from kiloword.runtime.own_time import OwnTime
from tests.sources import FakeSource, Picture, scene

SAYS = {tuple(scene(seed)[0, 0].tolist()): text for seed, text in enumerate(("a dog", "a cat", "a horse"))}


class FakeCaptioner(SimpleNamespace):
    calls = 0

    def caption(self, image: Picture, *, num_beams: int) -> Caption:
        self.calls += 1
        return Caption(SAYS[tuple(image[0, 0, ::-1].tolist())], 0.5, (), (), 1.0, "fake")


def film(*seconds: int, frames_per_second: int = 25) -> FakeSource:
    """The scenes 0, 1, 2, each for so many seconds."""
    pictures = [scene(seed) for seed, length in enumerate(seconds) for _ in range(length * frames_per_second)]
    return FakeSource(pictures, frames_per_second=frames_per_second)


def captions_of(
    source: FakeSource, every_s: float, **settings: Any
) -> tuple[list[LiveCaption], FakeCaptioner]:
    captioner = FakeCaptioner()
    return list(OwnTime(cast(Captioner, captioner), source, every_s, **settings).captions()), captioner


def test_each_scene_has_its_caption_at_its_time() -> None:
    """An hour of film passes in less than that: nothing here waits."""
    captions, captioner = captions_of(film(1200, 1200, 1200, frames_per_second=2), 1.0)
    assert [(live.shown, live.at_s, live.shown_since_s) for live in captions] == [
        ("a dog", 0.0, 0.0),
        ("a cat", 1200.0, 1200.0),
        ("a horse", 2400.0, 2400.0),
    ]
    assert captioner.calls == 3


@pytest.mark.parametrize("every_s", [0.04, 0.3, 1.0, 7.0])
def test_looks_come_at_the_steps_that_were_asked_for(every_s: float) -> None:
    """A cut at 5 s is seen at the first step after it; a step is never more than a frame late."""
    captions, _ = captions_of(film(5, 5), every_s)
    (_, cat) = captions
    assert 5.0 <= cat.at_s < 5.0 + every_s + 0.04
    assert cat.at_s % every_s == pytest.approx(0.0, abs=0.041) or every_s - cat.at_s % every_s < 0.041


def test_frames_between_the_looks_are_not_decoded() -> None:
    source = film(10)
    decoded = []
    plain = source.retrieve

    def counting() -> Picture | None:
        decoded.append(source.grabbed)
        return plain()

    source.retrieve = counting  # type: ignore[method-assign]
    captions_of(source, 1.0)
    assert decoded == [1, 26, 51, 76, 101, 126, 151, 176, 201, 226]


def test_every_frame_is_handed_on_with_its_words() -> None:
    got: list[str] = []
    captions_of(film(1, 1), 0.2, on_frame=lambda _bgr, text: got.append(text))
    assert got == ["a dog"] * 25 + ["a cat"] * 25


def test_what_was_read_is_counted() -> None:
    watched = OwnTime(cast(Captioner, FakeCaptioner()), film(2), 1.0)
    list(watched.captions())
    assert (watched.played.frames, watched.played.end_s) == (50, pytest.approx(2.0))
    watched = OwnTime(cast(Captioner, FakeCaptioner()), film(2, 2), 1.0)
    assert len(list(watched.captions(max_frames=1))) == 1


def test_a_film_without_frames_is_an_error() -> None:
    with pytest.raises(CameraError, match="gives no frames"):
        captions_of(FakeSource([]), 1.0)
