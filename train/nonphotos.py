"""Pictures that are no photo of the world, made by rules: blank, noise, text, screens, charts, drawings.

A captioner must not describe them. `kiloword calibrate` learns from these what to refuse;
`benchmarks/nonphotos.py` makes the ones that the result is measured on, which are other kinds of pictures.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter, ImageFont

__all__ = ["Colour", "Nonphoto", "draw_colour", "draw_size", "draw_words", "make_nonphotos", "recompress"]

Colour: TypeAlias = tuple[int, int, int]
Maker: TypeAlias = Callable[[Generator], Image.Image]

_SIZES = ((1280, 800), (1024, 768), (800, 600), (640, 480), (600, 800), (390, 844), (512, 512))
_PAPERS = ((255, 255, 255), (252, 250, 242), (245, 245, 245), (236, 239, 244), (250, 240, 215))
_INKS = ((0, 0, 0), (34, 34, 34), (60, 64, 67), (20, 30, 90), (90, 20, 20))
_DARKS = ((0, 0, 0), (30, 30, 30), (40, 44, 52), (0, 43, 54), (26, 27, 38), (48, 10, 36))
_LETTERS = "etaoinshrdlucmfwypvbgk"


@dataclass(frozen=True)
class Nonphoto:
    """A made picture."""

    kind: str
    """What it imitates."""
    image: Image.Image
    """RGB, of a size that such pictures have."""


def make_nonphotos(
    count: int, seed: int = 0, makers: Mapping[str, Maker] | None = None
) -> Iterator[Nonphoto]:
    """Make pictures of all kinds in turns; the same each time.

    Args:
        count: How many.
        seed: Another one makes other pictures.
        makers: What makes each kind; None for those of this file.
    """
    kinds = tuple((_MAKERS if makers is None else makers).items())
    for index in range(count):
        random = np.random.default_rng((seed, index))
        kind, maker = kinds[index % len(kinds)]
        yield Nonphoto(kind, recompress(maker(random), random))


def recompress(image: Image.Image, random: Generator) -> Image.Image:
    """Pass two pictures of three through JPEG, as photos are: its traces must not give the answer away."""
    if random.random() < 0.33:
        return image
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=int(random.integers(60, 96)))
    return Image.open(stream).convert("RGB")


def draw_colour(random: Generator, low: int = 0, high: int = 255) -> Colour:
    """A colour whose channels lie between ``low`` and ``high``."""
    red, green, blue = (int(value) for value in random.integers(low, high + 1, 3))
    return red, green, blue


def draw_size(random: Generator) -> tuple[int, int]:
    """Width and height of a screen, a page or a telephone."""
    return _SIZES[random.integers(len(_SIZES))]


def draw_words(random: Generator, count: int) -> str:
    """Words of random letters, with the lengths of English ones."""
    lengths = random.integers(2, 11, count)
    return " ".join("".join(random.choice(list(_LETTERS), length)) for length in lengths)


def _pick(random: Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[random.integers(len(colours))]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _from_floats(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")


def _blank(random: Generator) -> Image.Image:
    """One colour, with the faint noise of a sensor or without."""
    width, height = draw_size(random)
    colour = np.array(_pick(random, (*_PAPERS, *_DARKS, draw_colour(random), draw_colour(random))))
    noise = random.choice([0.0, 0.0, 1.0, 3.0, 6.0])
    return _from_floats(colour + noise * random.standard_normal((height, width, 3)))


def _gradient(random: Generator) -> Image.Image:
    """From one colour to another along a line."""
    width, height = draw_size(random)
    angle = random.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    along = rows * np.sin(angle) + columns * np.cos(angle)
    along = (along - along.min()) / np.ptp(along)
    first, second = np.array(draw_colour(random)), np.array(draw_colour(random))
    return _from_floats(first + along[:, :, None] * (second - first))


def _noise(random: Generator) -> Image.Image:
    """Random numbers in squares of one to sixteen pixels, grey or coloured."""
    width, height = draw_size(random)
    cell = int(random.choice([1, 1, 2, 4, 8, 16]))
    shape = (height // cell + 1, width // cell + 1, int(random.choice([1, 3])))
    values = random.uniform(40, 215) + random.uniform(15, 90) * random.standard_normal(shape)
    grown = values.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
    return _from_floats(np.broadcast_to(grown, (height, width, 3)))


def _dark(random: Generator) -> Image.Image:
    """A photo taken with the lens covered: nearly black, with noise and a slight cast."""
    width, height = draw_size(random)
    cast = random.uniform(0, 14, 3)
    return _from_floats(cast + random.uniform(0.5, 7) * random.standard_normal((height, width, 3)))


def _page(random: Generator) -> Image.Image:
    """Paragraphs with a heading, as a scan or a PDF shows them."""
    width, height = draw_size(random)
    image = Image.new("RGB", (width, height), _pick(random, _PAPERS))
    draw, ink, size = ImageDraw.Draw(image), _pick(random, _INKS), int(random.integers(11, 30))
    margin = int(width * random.uniform(0.03, 0.14))
    top = margin
    if random.random() < 0.6:
        draw.text((margin, top), draw_words(random, 4), fill=ink, font=_font(size * 2))
        top += size * 3
    room = max(2, int((width - 2 * margin) / (size * 3.2)))
    while top < height - margin:
        last = random.random() < 0.15
        words = draw_words(random, max(1, room // 3) if last else room)
        draw.text((margin, top), words, fill=ink, font=_font(size))
        top += int(size * (2.4 if last else 1.4))
    return image


def _terminal(random: Generator) -> Image.Image:
    """Lines of coloured text on a dark ground."""
    width, height = draw_size(random)
    image = Image.new("RGB", (width, height), _pick(random, _DARKS))
    draw, size = ImageDraw.Draw(image), int(random.integers(11, 22))
    palette = [draw_colour(random, 120, 255) for _ in range(4)]
    for top in range(8, int(height * random.uniform(0.4, 1)), int(size * 1.35)):
        left = 8.0
        for _ in range(int(random.integers(0, 6))):
            words = draw_words(random, int(random.integers(1, 4)))
            draw.text((left, top), words, fill=palette[random.integers(4)], font=_font(size))
            left += size * 0.55 * (len(words) + 2)
    return image


def _window(random: Generator) -> Image.Image:
    """A program's window with a title, a list at the left, fields and buttons."""
    width, height = draw_size(random)
    light = random.random() < 0.65
    ground, panel = (draw_colour(random, 225, 255), draw_colour(random, 200, 240)) if light else (
        draw_colour(random, 15, 50), draw_colour(random, 40, 75)
    )  # fmt: skip
    ink, accent = ((30, 30, 30) if light else (225, 225, 225)), draw_colour(random, 30, 220)
    image = Image.new("RGB", (width, height), ground)
    draw, size = ImageDraw.Draw(image), int(random.integers(12, 20))
    side = int(width * random.uniform(0.15, 0.35))
    draw.rectangle((0, 0, width, size * 2.5), fill=accent)
    draw.text((size, size // 2), draw_words(random, 2), fill=(255, 255, 255), font=_font(size))
    draw.rectangle((0, size * 2.5, side, height), fill=panel)
    for top in range(size * 4, height - size * 2, size * 2):
        draw.text((size, top), draw_words(random, 1), fill=ink, font=_font(size))
        kind = random.random()
        box = (side + size, top, side + size + int(width * random.uniform(0.1, 0.5)), top + size * 1.5)
        if kind < 0.25:
            draw.rectangle(box, outline=ink, fill=panel)
        elif kind < 0.4:
            draw.rounded_rectangle(box, size // 2, fill=accent)
        elif kind < 0.8:
            draw.text(box[:2], draw_words(random, int(random.integers(2, 7))), fill=ink, font=_font(size))
    return image


def _axes(random: Generator) -> tuple[Image.Image, ImageDraw.ImageDraw, tuple[int, int, int, int]]:
    """An empty chart: the picture, its pen, and left, top, right and bottom of the plot."""
    width, height = draw_size(random)
    light = random.random() < 0.8
    image = Image.new("RGB", (width, height), _pick(random, _PAPERS if light else _DARKS))
    draw, ink = ImageDraw.Draw(image), ((40, 40, 40) if light else (210, 210, 210))
    left, top, right, bottom = int(width * 0.1), int(height * 0.12), int(width * 0.95), int(height * 0.88)
    size = max(10, height // 40)
    for line in np.linspace(top, bottom, int(random.integers(4, 9))):
        if random.random() < 0.8:
            draw.line((left, line, right, line), fill=(180, 180, 180))
        draw.text((left // 3, line - size // 2), str(random.integers(1000)), fill=ink, font=_font(size))
    draw.line((left, top, left, bottom, right, bottom), fill=ink, width=2)
    draw.text((left, size), draw_words(random, 4), fill=ink, font=_font(size * 2))
    return image, draw, (left, top, right, bottom)


def _bar_chart(random: Generator) -> Image.Image:
    image, draw, (left, top, right, bottom) = _axes(random)
    bars = int(random.integers(3, 14))
    step, one = (right - left) / bars, draw_colour(random, 20, 230)
    for index, tall in enumerate(random.uniform(0.05, 0.95, bars)):
        colour = one if random.random() < 0.7 else draw_colour(random, 20, 230)
        start = left + step * (index + 0.15)
        draw.rectangle((start, bottom - tall * (bottom - top), start + step * 0.7, bottom), fill=colour)
    return image


def _line_chart(random: Generator) -> Image.Image:
    image, draw, (left, top, right, bottom) = _axes(random)
    points = int(random.integers(6, 90))
    across = np.linspace(left, right, points)
    for _ in range(int(random.integers(1, 6))):
        walk = random.standard_normal(points).cumsum()
        share = (walk - walk.min()) / max(np.ptp(walk), 1e-6) * random.uniform(0.3, 1)
        down = bottom - share * (bottom - top)
        pairs = [(float(x), float(y)) for x, y in zip(across, down, strict=True)]
        draw.line(pairs, fill=draw_colour(random, 20, 220), width=int(random.integers(1, 5)))
    return image


def _line_drawing(random: Generator) -> Image.Image:
    """Outlines on paper: curves, boxes and circles."""
    width, height = draw_size(random)
    image = Image.new("RGB", (width, height), _pick(random, _PAPERS))
    draw, ink, pen = ImageDraw.Draw(image), _pick(random, _INKS), int(random.integers(1, 8))
    for _ in range(int(random.integers(3, 25))):
        x, y = random.uniform(0, width), random.uniform(0, height)
        reach = random.uniform(0.05, 0.4) * min(width, height)
        box = (x - reach, y - reach * random.uniform(0.4, 1), x + reach, y + reach)
        shape = random.integers(4)
        if shape == 0:
            draw.ellipse(box, outline=ink, width=pen)
        elif shape == 1:
            start, end = sorted(random.uniform(0, 360, 2))
            draw.arc(box, start, end, fill=ink, width=pen)
        elif shape == 2:
            draw.rectangle(box, outline=ink, width=pen)
        else:
            path = np.array((x, y)) + reach * 0.3 * random.standard_normal((20, 2)).cumsum(axis=0)
            draw.line([(float(a), float(b)) for a, b in path], fill=ink, width=pen, joint="curve")
    return image.filter(ImageFilter.GaussianBlur(float(random.choice([0, 0, 1]))))


def _flat_drawing(random: Generator) -> Image.Image:
    """Coloured shapes without shading, as in clip art and logos."""
    width, height = draw_size(random)
    image = Image.new("RGB", (width, height), draw_colour(random, 120, 255))
    draw = ImageDraw.Draw(image)
    outline = (0, 0, 0) if random.random() < 0.4 else None
    for _ in range(int(random.integers(2, 18))):
        x, y = random.uniform(0, width), random.uniform(0, height)
        reach = random.uniform(0.04, 0.5) * min(width, height)
        corners = int(random.integers(3, 9))
        angles = np.sort(random.uniform(0, 2 * np.pi, corners))
        points = [(x + reach * float(np.cos(a)), y + reach * float(np.sin(a))) for a in angles]
        box, fill = (x - reach, y - reach, x + reach, y + reach), draw_colour(random)
        if random.random() < 0.4:
            draw.ellipse(box, fill=fill, outline=outline)
        else:
            draw.polygon(points, fill=fill, outline=outline, width=3)
    return image


def _pattern(random: Generator) -> Image.Image:
    """Stripes or a board of squares in two colours."""
    width, height = draw_size(random)
    rows, columns = np.mgrid[0:height, 0:width]
    period, angle = random.uniform(6, 120), random.choice([0, np.pi / 2, random.uniform(0, np.pi)])
    along = rows * np.sin(angle) + columns * np.cos(angle)
    across = columns * np.sin(angle) - rows * np.cos(angle)
    mask = along % period < period * random.uniform(0.2, 0.8)
    if random.random() < 0.5:
        mask = mask ^ (across % period < period / 2)
    colours = np.array((draw_colour(random), draw_colour(random)))
    return Image.fromarray(colours[mask.astype(int)].astype(np.uint8))


_MAKERS: dict[str, Maker] = {
    "blank": _blank,
    "page": _page,
    "gradient": _gradient,
    "terminal": _terminal,
    "noise": _noise,
    "window": _window,
    "dark": _dark,
    "bar chart": _bar_chart,
    "line chart": _line_chart,
    "line drawing": _line_drawing,
    "flat drawing": _flat_drawing,
    "pattern": _pattern,
}
