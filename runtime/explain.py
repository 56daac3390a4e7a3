"""Pictures of where a captioner looked: a sheet of all words as one picture, or a page to move over."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from kiloword.runtime.errors import ConfigError
from kiloword.runtime.fonts import Font, font_for, shorten, wrap
from kiloword.runtime.overlays import Seen, lay_over, place_of, see, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kiloword.runtime.captioner import Captioner, ImageSource

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".html")
"""Endings of the files that can be drawn."""

_TILE, _GAP, _COLUMNS = 240, 12, 5
_LABEL_SIZE, _TITLE_SIZE, _NOTE_SIZE = 18, 26, 15
_PAPER, _INK, _FAINT = (250, 250, 248), (24, 24, 24), (96, 96, 96)
_PAGE_EDGE = 720
_MASK_EDGE = 128


@dataclass(frozen=True)
class Explanation:
    """A photo, and maps of where a model looked."""

    seen: Seen
    title: str
    """What was said of the photo, or what the maps are."""
    labels: tuple[str, ...]
    """What each map belongs to, mostly a word."""
    maps: NDArray[np.float32]
    """float32 (labels, grid height, grid width), each sums to 1."""
    note: str
    """Small print: who looked."""


def explain(
    captioner: Captioner,
    photo: ImageSource,
    *,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    layers: Sequence[int] | None = None,
) -> Explanation:
    """Caption a photo and keep where the decoder looked for each word.

    Args:
        captioner: Of a bundle that can tell.
        photo: As for `Captioner.caption`.
        num_beams: As for `Captioner.caption`.
        max_new_tokens: As for `Captioner.caption`.
        layers: Only these of the decoder, counted from 0; None: all.

    Raises:
        ImageError: The photo cannot be read.
        ConfigError: The bundle cannot tell where it looks, or has no such layer.
    """
    looking: bool | Sequence[int] = True if layers is None else layers
    caption = captioner.caption(photo, num_beams=num_beams, max_new_tokens=max_new_tokens, attention=looking)
    if caption.attention is None:  # for the type checker: with attention=True there is one
        raise ConfigError(["attention: none came back"])
    seen = see(photo, captioner.bundle.manifest.image, _PAGE_EDGE)
    precision = captioner.bundle.manifest.precision
    which = "layers" if layers is None else f"layers {', '.join(map(str, sorted(set(layers))))}"
    note = f"{caption.bundle} ({precision}), cross-attention, mean over heads and {which}"
    return Explanation(seen, caption.text, caption.words, caption.attention, note)


def write_explanation(found: Explanation, path: Path) -> None:
    """Draw an explanation into a file, whole or not at all.

    Args:
        found: What to draw.
        path: Its ending decides: a picture (``.png``, ``.jpg``, ``.webp``) or a page (``.html``).

    Raises:
        ConfigError: The ending is another one.
        OSError: It cannot be written there.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError([f"expected a file name that ends in {', '.join(SUFFIXES)}"], path=path)
    if path.suffix.lower() == ".html":
        content = as_page(found).encode()
    else:
        stream = io.BytesIO()
        as_sheet(found).save(stream, format=Image.registered_extensions()[path.suffix.lower()], quality=90)
        content = stream.getvalue()
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def as_sheet(found: Explanation) -> Image.Image:
    """All maps as one picture: the photo first, then one tile for each label."""
    tiles = [found.seen.pixels, *(lay_over(found.seen.pixels, map_) for map_ in found.maps)]
    labels = ["", *found.labels]
    notes = ["", *(f"{map_.max():.0%} at its peak" for map_ in found.maps)]
    columns = min(_COLUMNS, len(tiles))
    width = _GAP + columns * (_TILE + _GAP)
    title_font = font_for(found.title, _TITLE_SIZE)
    title = wrap(found.title, title_font, width - 2 * _GAP)
    head = _GAP + len(title) * _line(title_font) + _GAP
    shape = found.seen.pixels.shape
    tile = (_TILE * shape[1] // max(shape[:2]), _TILE * shape[0] // max(shape[:2]))
    row_height = _line(font_for("".join(labels), _LABEL_SIZE)) + tile[1] + _NOTE_SIZE + 2 * _GAP
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (width, head + rows * row_height + _NOTE_SIZE + 2 * _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(title):
        pen.text((_GAP, _GAP + number * _line(title_font)), line, _INK, title_font)
    for number, (pixels, label, note) in enumerate(zip(tiles, labels, notes, strict=True)):
        left, top = _GAP + number % columns * (_TILE + _GAP), head + number // columns * row_height
        _draw_tile(sheet, pen, (left, top), Image.fromarray(pixels).resize(tile), label, note)
    small = font_for(found.note, _NOTE_SIZE)
    place = (_GAP, sheet.height - _NOTE_SIZE - _GAP)
    pen.text(place, shorten(found.note, small, width - 2 * _GAP), _FAINT, small)
    return sheet


def _draw_tile(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    tile: Image.Image,
    label: str,
    note: str,
) -> None:
    """Label, picture and note, one below the other."""
    left, top = place
    font, small = font_for(label, _LABEL_SIZE), font_for(note, _NOTE_SIZE)
    pen.text((left, top), shorten(label, font, _TILE), _INK, font)
    below = top + _line(font_for(label, _LABEL_SIZE))
    sheet.paste(tile, (left, below))
    pen.text((left, below + tile.height + 2), note, _FAINT, small)


def _line(font: Font) -> int:
    """Height of a line of text."""
    box = font.getbbox("Åg")
    return round(box[3] * 1.25)


def as_page(found: Explanation) -> str:
    """All maps as one HTML page that needs nothing else: hover or focus a word to see its map."""
    height, width = found.maps.shape[1:]
    words = []
    for number, (label, map_) in enumerate(zip(found.labels, found.maps, strict=True)):
        row, column = divmod(int(map_.argmax()), width)
        place = place_of(row, column, (height, width))
        told = f"{label}: looks most at the {place}, {map_.max():.0%} at its peak"
        words.append(
            f'<button type="button" data-map="{number}" data-told="{html.escape(told)}" '
            f'aria-pressed="false">{html.escape(label)}</button>'
        )
    picture = Image.fromarray(found.seen.pixels)
    masks = [_data_uri(_mask(map_, found.seen.pixels.shape), "PNG") for map_ in found.maps]
    values = {
        "TITLE": html.escape(found.title or "no words"),
        "NOTE": html.escape(found.note),
        "WORDS": "\n".join(words),
        "WIDTH": str(picture.width),
        "HEIGHT": str(picture.height),
        "PHOTO": _data_uri(picture, "JPEG"),
        "MASKS": json.dumps(masks),
    }
    page = (Path(__file__).parent / "explain.html").read_text(encoding="utf-8")
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], page)


def _mask(map_: NDArray[np.float32], shape: Sequence[int]) -> Image.Image:
    """What darkens the photo where nothing was looked at: black, more or less opaque."""
    scale = _MASK_EDGE / max(shape[:2])
    light = spread(map_, max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale)))
    mask = np.zeros((*light.shape, 2), dtype=np.uint8)
    mask[:, :, 1] = np.rint(200 * (1 - light))
    return Image.fromarray(mask, "LA")


def _data_uri(image: Image.Image, kind: str) -> str:
    stream = io.BytesIO()
    image.save(stream, format=kind, quality=88)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
