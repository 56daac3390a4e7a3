"""Something changed or it did not; cuts; the pace of captions. Pictures are made here."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kiloword.runtime.scene import Pace, SceneGate, changed_share, is_cut, largest_change, shrink
from tests.sources import scene

SIZE = (480, 640)


def with_noise(picture: NDArray[np.uint8], levels: float, seed: int) -> NDArray[np.uint8]:
    """A sensor's noise, normal, of this standard deviation."""
    noise = np.random.default_rng(seed).normal(0, levels, picture.shape)
    return (picture + noise).round().clip(0, 255).astype(np.uint8)


def changed(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> bool:
    gate = SceneGate()
    gate.close(shrink(before))
    return gate.is_new(shrink(after))


def test_small_pictures_are_the_means_of_their_cells() -> None:
    """A picture in four colours, one for each quarter: every cell has one of these colours exactly."""
    picture = np.zeros((480, 640, 3), dtype=np.uint8)
    picture[:240, 320:], picture[240:, :320], picture[240:, 320:] = (10, 20, 30), (200, 0, 100), 255
    small = shrink(picture)
    assert small.shape == (24, 32, 3)
    assert (small[:12, 16:] == (10, 20, 30)).all()
    assert (small[12:, :16] == (200, 0, 100)).all()
    assert (small[12:, 16:] == 255).all()


@pytest.mark.parametrize(
    "size", [(1, 1), (2, 2), (23, 31), (25, 33), (191, 257), (481, 641), (1080, 1920), (2, 4000)]
)
def test_any_size_can_be_shrunk(size: tuple[int, int]) -> None:
    small = shrink(np.full((*size, 3), 77, dtype=np.uint8))
    assert small.shape == (min(24, size[0]), min(32, size[1]), 3)
    assert (small == 77).all()


def test_the_first_frame_is_new() -> None:
    assert SceneGate().is_new(shrink(scene(0)))


@pytest.mark.parametrize("levels", [0, 5, 15])
def test_noise_is_no_change(levels: float) -> None:
    """15 levels is what a telephone shows in a dark room."""
    picture = scene(0, SIZE)
    assert not any(
        changed(with_noise(picture, levels, 1), with_noise(picture, levels, seed)) for seed in range(2, 8)
    )


def test_a_shift_of_exposure_is_no_change_and_the_light_switched_off_is() -> None:
    picture = (scene(0, SIZE) // 2 + 60).astype(np.uint8)
    assert not changed(picture, picture + 12)
    assert changed(picture, picture // 4)


def test_an_object_that_comes_is_a_change_and_a_speck_is_not() -> None:
    """120 x 120 of 640 x 480 is 4.7 % of the picture; 20 x 20 is 0.1 %."""
    picture = np.full((*SIZE, 3), 90, dtype=np.uint8)
    with_object, with_speck = picture.copy(), picture.copy()
    with_object[100:220, 100:220] = 200
    with_speck[100:120, 100:120] = 200
    assert changed(picture, with_object)
    assert not changed(picture, with_speck)


def test_a_change_of_colour_alone_is_a_change() -> None:
    """Red for blue of the same lightness, which a grey picture would not show."""
    picture = np.full((*SIZE, 3), 90, dtype=np.uint8)
    other = picture.copy()
    picture[:240], other[:240] = (200, 90, 40), (40, 90, 200)
    assert changed(picture, other)


def test_slow_changes_add_up() -> None:
    """A box that grows by a row a frame never differs much from the frame before."""
    gate = SceneGate()
    picture = np.full((*SIZE, 3), 90, dtype=np.uint8)
    gate.close(shrink(picture))
    news = []
    for row in range(100):
        picture[row, :200] = 255
        news.append(gate.is_new(shrink(picture)))
    assert not news[0]
    assert news[-1]


def test_cuts() -> None:
    """Another scene is a cut; the same one a little further to the side, or with more light, is not."""
    picture = scene(0, SIZE)
    assert is_cut(shrink(picture), shrink(scene(1, SIZE)))
    assert not is_cut(shrink(picture), shrink(np.roll(picture, 8, axis=1)))
    assert not is_cut(shrink(picture), shrink(with_noise(picture, 15, 3)))


def test_another_size_is_another_scene() -> None:
    small, other = shrink(scene(0)), shrink(np.zeros((4, 4, 3), dtype=np.uint8))
    assert changed_share(small, other) == 1.0
    assert largest_change(small, other) == 255.0
    assert largest_change(small, small) == 0.0


def test_the_pace_holds_over_time() -> None:
    """Asked each millisecond for ten seconds at five a second: fifty; the one for a cut is kept."""
    pace, made = Pace(5.0), 0
    for millisecond in range(10_000):
        if pace.wait_s(millisecond / 1000, cut=False) == 0:
            pace.spend(millisecond / 1000)
            made += 1
    assert 49 <= made <= 51
    assert pace.wait_s(10.0, cut=True) == 0


def test_a_cut_does_not_wait_but_cuts_cannot_break_the_pace() -> None:
    pace = Pace(5.0)
    pace.spend(0.0)
    assert pace.wait_s(0.0, cut=False) == pytest.approx(0.2)
    assert pace.wait_s(0.0, cut=True) == 0
    pace.spend(0.0)
    assert pace.wait_s(0.0, cut=True) == pytest.approx(0.2)
    assert pace.wait_s(0.0, cut=False) == pytest.approx(0.4)


def test_after_the_wait_it_is_time() -> None:
    """A rounding error must not make the wait for a caption's turn endless."""
    now, pace = 1234.567891, Pace(7.0)
    pace.spend(now)
    for _ in range(100):
        now += pace.wait_s(now, cut=False)
        assert pace.wait_s(now, cut=False) == 0
        pace.spend(now)
