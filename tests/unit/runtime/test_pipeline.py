"""Any number of photos, in order, in constant memory; a bad one stops nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kiloword.runtime.captioner import Captioner
from kiloword.runtime.errors import ImageError
from kiloword.runtime.pipeline import caption_photos
from tests.bundles import make_tiny_bundle


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    directory = tmp_path_factory.mktemp("bundle")
    make_tiny_bundle(directory)
    return Captioner.load(directory, provider="cpu", threads=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Twenty different small photos."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    paths = [folder / f"{number:02d}.png" for number in range(20)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return [str(path) for path in paths]


def test_rows_equal_captions_one_by_one(captioner: Captioner, photos: list[str]) -> None:
    """The expected captions come from the public API, one photo at a time; the tiny bundle is fp32."""
    rows = list(caption_photos(captioner, photos, batch_size=8, num_beams=2, max_new_tokens=6))
    assert [row.path for row in rows] == photos
    expected = [captioner.caption(photo, num_beams=2, max_new_tokens=6).text for photo in photos]
    assert [row.caption.text if row.caption else None for row in rows] == expected


def test_bad_photos_become_errors_in_their_place(
    captioner: Captioner, photos: list[str], tmp_path: Path
) -> None:
    """Also where a whole batch is bad."""
    (tmp_path / "empty.jpg").touch()
    mixed: list[str | ImageError] = [photos[0], str(tmp_path / "empty.jpg"), photos[1]]
    mixed += [str(tmp_path / "missing.jpg"), ImageError("no photos in this folder", path="dir"), photos[2]]
    rows = list(caption_photos(captioner, mixed, batch_size=2))
    assert [row.caption is not None for row in rows] == [True, False, True, False, False, True]
    assert "is empty" in (rows[1].error or "")
    assert rows[4].path == "dir"
    only_bad = list(caption_photos(captioner, [str(tmp_path / "empty.jpg")] * 3, batch_size=2))
    assert [row.error is not None for row in only_bad] == [True] * 3


def test_no_photos(captioner: Captioner) -> None:
    assert list(caption_photos(captioner, [])) == []


def test_listing_stays_close_to_captioning(captioner: Captioner, photos: list[str]) -> None:
    """A hundred thousand paths are never held at once: the lister runs ahead by the queues' lengths only."""
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield photos[taken % len(photos)]

    rows = caption_photos(captioner, endless(), batch_size=4)
    try:
        for _ in range(40):
            next(rows)
        before = -1
        while taken > before:  # until all that is bounded is full
            before = taken
            time.sleep(0.3)
        assert taken < 3000
    finally:
        rows.close()  # type: ignore[attr-defined]


def test_closing_early_ends_the_threads(captioner: Captioner, photos: list[str]) -> None:
    """Ctrl-C or a closed pipe leaves no thread behind that would hold up the end of the process."""
    rows = caption_photos(captioner, iter(photos * 50), batch_size=2)
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("kiloword-") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


def test_a_photo_that_comes_alone_is_not_held_back(captioner: Captioner, photos: list[str]) -> None:
    """`max_wait_s` is what makes `kiloword caption -` answer a program that sends one path at a time."""
    answered = threading.Event()

    def one_at_a_time() -> Iterator[str]:
        yield photos[0]
        assert answered.wait(5), "the first photo waited for a full batch"
        yield photos[1]

    rows = caption_photos(captioner, one_at_a_time(), batch_size=8, max_wait_s=0.02)
    assert next(rows).path == photos[0]
    answered.set()
    assert [row.path for row in rows] == [photos[1]]


def test_an_error_of_the_lister_reaches_the_caller(captioner: Captioner, photos: list[str]) -> None:
    """A fault in a generator must not end the run as if all had been listed."""

    def broken() -> Iterator[str]:
        yield photos[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(caption_photos(captioner, broken(), batch_size=1))
