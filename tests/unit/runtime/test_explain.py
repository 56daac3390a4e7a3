"""Pictures of attention: what is drawn is where the map says, and nothing is cut off or fetched."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image, ImageFont

from kiloword import Captioner, ConfigError
from kiloword.cli import main
from kiloword.runtime.explain import Explanation, as_page, as_sheet, explain, write_explanation
from kiloword.runtime.fonts import font_for, shorten, wrap
from kiloword.runtime.images import upright_size
from kiloword.runtime.manifest import ImageSpec
from kiloword.runtime.overlays import Seen, lay_over, place_of, see, spread
from tests.bundles import make_tiny_bundle


def one_cell(height: int, width: int, row: int, column: int) -> NDArray[np.float32]:
    map_ = np.zeros((height, width), dtype=np.float32)
    map_[row, column] = 1.0
    return map_


def explained(
    labels: tuple[str, ...], shape: tuple[int, int] = (60, 90), title: str = "a dog"
) -> Explanation:
    maps = np.stack([one_cell(3, 3, number % 3, number % 3) for number in range(len(labels))])
    grey = np.full((*shape, 3), 200, dtype=np.uint8)
    return Explanation(Seen(grey, 0, 0, 1, 1), title, labels, maps, "a note")


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 3), (3, 1)])
def test_light_falls_on_the_cell(row: int, column: int) -> None:
    """The brightest pixel of a grey photo lies in the cell with all attention; far from it is dark."""
    drawn = lay_over(np.full((80, 120, 3), 200, dtype=np.uint8), one_cell(4, 4, row, column)).sum(axis=2)
    top, left = np.unravel_index(int(drawn.argmax()), drawn.shape)
    assert (top // 20, left // 30) == (row, column)
    assert drawn.min() < 0.4 * drawn.max()
    assert drawn[3 * 20 + 10 if row < 2 else 10, 3 * 30 + 15 if column < 2 else 15] == drawn.min()


def test_a_map_spreads_smoothly() -> None:
    """Peak 1, never negative, and no step between neighbours as nearest-neighbour scaling has."""
    smooth = spread(one_cell(4, 4, 1, 2), 200, 200)
    assert smooth.max() == pytest.approx(1.0)
    assert smooth.min() == 0.0
    assert np.abs(np.diff(smooth, axis=0)).max() < 0.05


def test_places_have_names() -> None:
    """For a 14 x 14 grid, by thirds."""
    assert [place_of(*cell, (14, 14)) for cell in ((0, 0), (7, 7), (13, 0), (7, 13))] == [
        "upper left", "centre", "lower left", "middle right",
    ]  # fmt: skip


def test_a_tall_photo_keeps_its_proportions() -> None:
    """A bundle that stretches sees the whole photo, drawn in the photo's own shape."""
    photo = np.zeros((400, 100, 3), dtype=np.uint8)
    seen = see(photo, ImageSpec(224, 224), 200)
    assert seen.pixels.shape == (200, 50, 3)
    assert (seen.left, seen.top, seen.width, seen.height) == (0, 0, 1, 1)


def test_a_bundle_that_crops_shows_what_it_saw() -> None:
    """256 from the shortest edge, 224 from the middle: 87.5 % of the height, half as much of the width."""
    photo = np.zeros((300, 600, 3), dtype=np.uint8)
    photo[:, 300:] = 255
    spec = ImageSpec(224, 224, "shortest_edge_center_crop", 256)
    seen = see(photo, spec, 448)
    assert seen.pixels.shape == (448, 448, 3)
    assert (seen.width, seen.height) == (0.4375, 0.875)
    assert seen.left == pytest.approx((1 - 0.4375) / 2)
    assert seen.top == pytest.approx(0.0625)
    assert seen.pixels[:, :200].max() == 0
    assert seen.pixels[:, 250:].min() == 255


def test_the_size_is_that_of_the_photo_upright(tmp_path: Path) -> None:
    """A photo that lies on its side by its EXIF tag; bytes, path, picture and array alike."""
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "side.jpg", exif=exif)
    data = (tmp_path / "side.jpg").read_bytes()
    assert upright_size(tmp_path / "side.jpg") == upright_size(data) == (20, 30)
    plain = Image.new("RGB", (30, 20))
    assert upright_size(plain) == upright_size(np.asarray(plain)) == (30, 20)


def test_the_sheet_has_a_tile_for_each_word() -> None:
    """Seven words and the photo are two rows of five; each tile is lit elsewhere, so all differ."""
    one = as_sheet(explained(("a",)))
    seven = as_sheet(explained(("a", "dog", "runs", "on", "the", "green", "grass")))
    assert seven.width > one.width
    assert seven.height > one.height
    pixels = np.asarray(seven.convert("L"), dtype=int)
    # The photo's own grey is the photo tile alone: the others are darkened or warmed.
    assert (np.asarray(seven) == 200).all(axis=2).sum() >= 240 * 160 * 0.99
    assert len(np.unique(pixels)) > 100


@pytest.mark.parametrize("count", [0, 1, 24])
def test_any_number_of_words_can_be_drawn(count: int, tmp_path: Path) -> None:
    """No words at all, one, and many, in each format."""
    labels = tuple(f"word{number}" for number in range(count))
    maps = np.ones((count, 3, 3), dtype=np.float32) / 9
    found = replace(explained(("a",)), title=" ".join(labels), labels=labels, maps=maps)
    for suffix in (".png", ".jpg", ".webp"):
        write_explanation(found, tmp_path / f"out{suffix}")
        with Image.open(tmp_path / f"out{suffix}") as image:
            assert image.width > 200
    write_explanation(found, tmp_path / "out.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.html", "out.jpg", "out.png", "out.webp"]


def test_labels_fit_their_tile() -> None:
    """The longest word of a Welsh village and a whole sentence without spaces."""
    font = font_for("a", 18)
    for word in ("Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch", "狗" * 80, "dog"):
        fitting = font_for(word, 18)
        assert fitting.getlength(shorten(word, fitting, 240)) <= 240
        assert all(fitting.getlength(line) <= 300 for line in wrap(f"{word} {word}", fitting, 300))
        assert "".join(wrap(word, fitting, 300)) == word
    assert shorten("dog", font, 240) == "dog"
    assert wrap("", font, 100) == [""]


def test_letters_beyond_ascii_are_drawn() -> None:
    """Each has a shape of its own, not the box of a missing character, where a font of the system has it."""
    text = "éñßЖλ"
    font = font_for(text, 20)
    if not isinstance(font, ImageFont.FreeTypeFont) or "Aileron" in font.getname():
        pytest.skip("no font with these letters here")
    assert len({bytes(font.getmask(letter)) for letter in text}) == len(text)


class Reader(HTMLParser):
    """Collects buttons and everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.buttons: list[dict[str, str | None]] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "button":
            self.buttons.append(values)
        self.fetched += [str(values[name]) for name in ("src", "href", "srcset") if values.get(name)]


def test_the_page_is_self_contained_and_its_words_are_buttons() -> None:
    """Every address in it is data; words can be reached with the keyboard; text cannot become markup."""
    page = as_page(
        explained(("a", "<b>dog</b>", '& "cat"'), title="a </title><script>alert(1)</script> @NOTE@")
    )
    reader = Reader()
    reader.feed(page)
    assert [button["data-map"] for button in reader.buttons] == ["0", "1", "2"]
    assert reader.buttons[1]["data-told"] == "<b>dog</b>: looks most at the centre, 100% at its peak"
    assert all(address.startswith("data:image/") for address in reader.fetched)
    assert not re.search(r"https?://|url\(|@import", page)
    assert page.count("<script>") == 1
    assert "@NOTE@" in page
    assert len(re.findall(r"data:image/png;base64", page)) == 3


def test_explain_says_what_caption_says(tmp_path: Path) -> None:
    """The same caption, words and maps as the API's, over the photo's own shape."""
    make_tiny_bundle(tmp_path, seed=5)
    photo = np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8)
    with Captioner.load(tmp_path, provider="cpu", threads=1) as captioner:
        found = explain(captioner, photo, num_beams=2)
        caption = captioner.caption(photo, num_beams=2, attention=True)
    assert (found.title, found.labels) == (caption.text, caption.words)
    assert caption.attention is not None
    np.testing.assert_array_equal(found.maps, caption.attention)
    assert found.seen.pixels.shape == (720, 360, 3)


@pytest.mark.parametrize(("layers", "code"), [("1", 0), ("0,2", 0), ("7", 1), ("first", 2), ("", 2)])
def test_layers_on_the_command_line(photos: Path, tmp_path: Path, layers: str, code: int) -> None:
    """The shipped decoder has three; text is misuse, a number too high is the bundle's word."""
    output = tmp_path / "out.png"
    arguments = ["explain", str(photos / "cat.jpg"), "-o", str(output), "--layers", layers, "--threads", "1"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == code, done.output
    assert output.exists() == (code == 0)
    assert code != 1 or "expected layers from 0 to 2, found 7" in done.output


def test_another_ending_is_refused(tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises(ConfigError, match=r"ends in \.png"):
        write_explanation(explained(("a",)), tmp_path / "out.txt")
    assert not list(tmp_path.iterdir())
