"""The class that programs use: one photo, many photos, pixels, streams, and what goes wrong."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kiloword import Bundle, Caption, Captioner, CaptionFailure, ConfigError, ImageError, KilowordError
from kiloword.runtime.bundle import write_manifest
from kiloword.runtime.captioner import confidence
from tests.bundles import VOCABULARY, make_tiny_bundle


def test_caption_of_a_photo(captioner: Captioner, photo: Path) -> None:
    """Every field is filled, and they agree with each other."""
    caption = captioner.caption(photo)
    words = [VOCABULARY[token] for token in caption.token_ids if token != 2]
    assert caption.text == " ".join(words)
    assert caption.text
    assert len(caption.token_logprobs) == len(caption.token_ids)
    mean = sum(caption.token_logprobs) / len(caption.token_logprobs)
    assert caption.confidence == pytest.approx(math.exp(mean))
    assert 0 < caption.confidence <= 1
    assert caption.latency_ms > 0
    assert caption.bundle == "tiny"
    assert captioner.provider == "cpu"
    assert captioner.bundle.name == "tiny"


def test_all_sources_give_one_caption(captioner: Captioner, photo: Path) -> None:
    with Image.open(photo) as image:
        sources: list[Any] = [photo, str(photo), photo.read_bytes(), image, np.asarray(image)]
        captions = {captioner.caption(source).text for source in sources}
    assert len(captions) == 1


def test_settings_of_a_call_override_the_bundle(tmp_path: Path, photo: Path) -> None:
    """Defaults come from the manifest, each can be overridden (expected: a bundle with that default)."""
    narrow = make_tiny_bundle(tmp_path / "narrow", num_beams=1, max_new_tokens=5)
    wide = make_tiny_bundle(tmp_path / "wide", num_beams=4, max_new_tokens=12)
    with (
        Captioner.load(narrow.directory, threads=1) as one,
        Captioner.load(wide.directory, threads=1) as other,
    ):
        assert len(one.caption(photo).token_ids) <= 5
        expected = other.caption(photo)
        found = one.caption(photo, num_beams=4, max_new_tokens=12)
        assert found.token_ids == expected.token_ids
        assert other.caption(photo, length_penalty=4.0).token_ids != expected.token_ids
        unrepeated = other.caption(photo, no_repeat_ngram_size=1).token_ids
        assert len(set(unrepeated)) == len(unrepeated)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_many_equals_single(captioner: Captioner, pixels: NDArray[np.uint8], num_beams: int) -> None:
    """Batches of 5 over 12 images, against each alone; order kept."""
    many = list(captioner.caption_many(pixels, batch_size=5, num_beams=num_beams))
    single = [captioner.caption(image, num_beams=num_beams) for image in pixels]
    assert [one.text for one in many] == [one.text for one in single]
    assert len({one.text for one in many}) > 5


def test_pixels_equal_photos(captioner: Captioner, pixels: NDArray[np.uint8]) -> None:
    """Images of the right size pass unchanged through loading."""
    found = [one.token_ids for one in captioner.caption_pixels(pixels)]
    assert found == [captioner.caption(image).token_ids for image in pixels]
    assert captioner.caption_pixels(pixels[:0]) == []


def test_latency_is_shared_by_a_batch(captioner: Captioner, pixels: NDArray[np.uint8]) -> None:
    assert len({one.latency_ms for one in captioner.caption_pixels(pixels)}) == 1


def test_failures_stand_in_their_places(captioner: Captioner, photo: Path, tmp_path: Path) -> None:
    """A bad file stops nothing; the others get the captions they get alone."""
    text = tmp_path / "text.jpg"
    text.write_text("no photo", encoding="utf-8")
    sources = [photo, tmp_path / "missing.jpg", text, photo, text]
    results = list(captioner.caption_many(sources, batch_size=2, on_error="yield"))
    assert [isinstance(result, CaptionFailure) for result in results] == [False, True, True, False, True]
    assert isinstance(results[1], CaptionFailure)
    assert str(results[1].error).startswith(str(tmp_path / "missing.jpg"))
    assert isinstance(results[3], Caption)
    assert results[3].text == captioner.caption(photo).text


def test_a_failure_raises_unless_told_otherwise(captioner: Captioner, photo: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no such file"):
        list(captioner.caption_many([photo, tmp_path / "missing.jpg"]))


def test_photos_are_taken_as_they_are_needed(captioner: Captioner, pixels: NDArray[np.uint8]) -> None:
    """An endless source works, and no more than a batch is read ahead."""
    taken = 0

    def endless() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        while True:
            taken += 1
            yield pixels[taken % len(pixels)]

    results = captioner.caption_many(endless(), batch_size=3)
    assert taken == 0
    for _ in range(4):
        next(results)
    assert taken == 6


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"batch_size": 0}, "batch_size: expected 1 or more, found 0"),
        ({"on_error": "ignore"}, "on_error: expected 'raise' or 'yield', found 'ignore'"),
        ({"num_beams": 100}, "num_beams: expected 1 to 15"),
    ],
)
def test_misuse_is_noticed_at_once(captioner: Captioner, options: Any, problem: str) -> None:
    """Before the first photo is asked for, not when the iterator is."""
    with pytest.raises(ConfigError, match=problem):
        captioner.caption_many([], **options)


def test_stream_joins_to_the_greedy_caption(bundle: Bundle, pixels: NDArray[np.uint8]) -> None:
    """For every kind of decoder; the bundle's default of beams plays no part."""
    with Captioner.load(bundle.directory, threads=1) as captioner:
        for image in pixels:
            pieces = list(captioner.stream(image, max_new_tokens=8, no_repeat_ngram_size=2))
            whole = captioner.caption(image, num_beams=1, max_new_tokens=8, no_repeat_ngram_size=2)
            assert "".join(pieces) == whole.text
            assert len(pieces) == len(whole.text.split())


@pytest.mark.parametrize(
    "array",
    [np.zeros((1, 16, 16, 3)), np.zeros((16, 16, 3), np.uint8), np.zeros((1, 8, 16, 3), np.uint8)],
)
def test_pixels_of_the_wrong_form(captioner: Captioner, array: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=r"expected uint8 \(batch_size, 16, 16, 3\), found"):
        captioner.caption_pixels(array)


def test_closed(captioner: Captioner, photo: Path) -> None:
    """Closing twice is fine; captioning afterwards is said to be wrong."""
    captioner.close()
    captioner.close()
    for use in (captioner.caption, lambda source: list(captioner.stream(source))):
        with pytest.raises(KilowordError, match="the captioner is closed"):
            use(photo)


def test_the_manifest_decides_on_the_size(own_bundle: Bundle, photo: Path, photo_bytes: bytes) -> None:
    """Cropping bundles see the middle: a photo with painted edges gets the caption of one without."""
    cropping = replace(own_bundle.manifest.image, resize="shortest_edge_center_crop", shortest_edge=48)
    write_manifest(own_bundle.directory, replace(own_bundle.manifest, image=cropping))
    painted = np.array(Image.open(io.BytesIO(photo_bytes)))
    painted[:, :20] = painted[:, -20:] = 255
    plain = np.array(Image.open(io.BytesIO(photo_bytes)))
    with Captioner.load(own_bundle.directory, threads=1) as captioner:
        assert captioner.caption(painted).token_logprobs == captioner.caption(plain).token_logprobs


def test_confidence_is_a_geometric_mean() -> None:
    """By hand: sqrt(0.9 * 0.4) = 0.6; never more than 1; 0 for nothing."""
    assert confidence([math.log(0.9), math.log(0.4)]) == pytest.approx(0.6)
    assert confidence([1e-9]) == 1.0
    assert confidence([]) == 0.0
