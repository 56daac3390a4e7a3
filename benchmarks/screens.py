"""Screens and printed pages that honesty is measured on: text in many layouts, and codes for machines."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

from kiloword.train.nonphotos import Colour, draw_colour, draw_words

_SIZES = ((1440, 900), (1366, 768), (1080, 1080), (720, 1280), (1600, 1200), (900, 600), (595, 842))
_FONTS = ("DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold", "STIXGeneral", "cmr10", "DejaVuSans")


@lru_cache(maxsize=256)
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One of matplotlib's fonts."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def any_font(random: Generator, size: int) -> ImageFont.FreeTypeFont:
    """One of six fonts."""
    return load_font(_FONTS[random.integers(len(_FONTS))], size)


def any_size(random: Generator) -> tuple[int, int]:
    """Width and height."""
    return _SIZES[random.integers(len(_SIZES))]


def canvas(random: Generator, colour: Colour) -> tuple[Image.Image, ImageDraw.ImageDraw, int, int]:
    """A picture of one colour, its pen, its width and its height."""
    width, height = any_size(random)
    image = Image.new("RGB", (width, height), colour)
    return image, ImageDraw.Draw(image), width, height


def to_image(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Image.Image:
    """An RGB picture of floats (height, width, 3)."""
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")


def code_editor(random: Generator) -> Image.Image:
    """Numbered lines of indented code beside a list of files."""
    dark = random.random() < 0.6
    image, draw, width, height = canvas(
        random, draw_colour(random, 18, 45) if dark else draw_colour(random, 240, 255)
    )
    palette = [draw_colour(random, 110, 255) if dark else draw_colour(random, 0, 140) for _ in range(5)]
    size, side = int(random.integers(12, 20)), int(width * random.uniform(0, 0.25))
    font = load_font("DejaVuSansMono", size)
    draw.rectangle((0, 0, side, height), fill=draw_colour(random, 30, 60) if dark else (230, 230, 232))
    indent = 0
    for number, top in enumerate(range(size, height - size, int(size * 1.5))):
        if side and number < 18:
            draw.text((size, top), draw_words(random, 1), fill=palette[0], font=font)
        draw.text((side + 4, top), f"{number + 1:3}", fill=(128, 128, 128), font=font)
        indent = int(np.clip(indent + random.integers(-1, 2), 0, 5))
        left = side + size * (3.0 + 1.2 * indent)
        for _ in range(int(random.integers(0, 6))):
            word = draw_words(random, 1) + str(random.choice(["(", " =", ":", ",", ")", "[0]", " {"]))
            draw.text((left, top), word, fill=palette[random.integers(5)], font=font)
            left += size * 0.62 * (len(word) + 1)
    return image


def spreadsheet(random: Generator) -> Image.Image:
    """A grid of cells with numbers."""
    image, draw, width, height = canvas(random, (255, 255, 255))
    size = int(random.integers(11, 18))
    step_x, step_y, font = size * int(random.integers(5, 9)), int(size * 1.8), any_font(random, size)
    head = draw_colour(random, 190, 240)
    draw.rectangle((0, 0, width, step_y), fill=head)
    draw.rectangle((0, 0, step_x // 2, height), fill=head)
    for top in range(0, height, step_y):
        draw.line((0, top, width, top), fill=(205, 205, 205))
        for left in range(step_x // 2, width, step_x):
            if random.random() < 0.75:
                draw.text((left + 4, top + 2), f"{random.uniform(0, 5000):.2f}", fill=(20, 20, 20), font=font)
    for left in range(step_x // 2, width, step_x):
        draw.line((left, 0, left, height), fill=(205, 205, 205))
    return image


def dialog(random: Generator) -> Image.Image:
    """A message with two buttons before an empty desktop."""
    image, draw, width, height = canvas(random, draw_colour(random, 20, 200))
    left, top = width * random.uniform(0.1, 0.35), height * random.uniform(0.2, 0.35)
    right, bottom = width - left, height - top
    draw.rounded_rectangle((left, top, right, bottom), 12, fill=(246, 246, 246), outline=(120, 120, 120))
    size = max(12, int(width / 50))
    draw.text(
        (left + size, top + size), draw_words(random, 3), fill=(0, 0, 0), font=any_font(random, size + 4)
    )
    for line in range(3):
        at = (left + size, top + size * (3.5 + 1.4 * line))
        draw.text(at, draw_words(random, 6), fill=(50, 50, 50), font=any_font(random, size))
    for number in (1, 2):
        box = (
            right - number * size * 7,
            bottom - size * 3,
            right - number * size * 7 + size * 6,
            bottom - size,
        )
        draw.rectangle(box, fill=draw_colour(random, 60, 230), outline=(80, 80, 80))
    return image


def web_page(random: Generator) -> Image.Image:
    """A heading, a row of links, and boxes with a coloured area and two lines each."""
    image, draw, width, height = canvas(random, draw_colour(random, 235, 255))
    size = max(11, width // 70)
    draw.rectangle((0, 0, width, size * 3), fill=draw_colour(random, 0, 130))
    for left in range(size, width, size * 9):
        draw.text((left, size), draw_words(random, 1), fill=(255, 255, 255), font=any_font(random, size))
    draw.text((size * 2, size * 4), draw_words(random, 5), fill=(10, 10, 10), font=any_font(random, size * 2))
    columns = int(random.integers(2, 5))
    wide = width // columns
    for top in range(size * 8, height, size * 13):
        for left in range(0, width - wide + 1, wide):
            draw.rectangle(
                (left + size, top, left + wide - size, top + size * 8), fill=draw_colour(random, 90)
            )
            for line in (0, 1):
                at = (left + size, top + size * (8.5 + 1.4 * line))
                draw.text(at, draw_words(random, max(1, wide // size // 6)), fill=(40, 40, 40),
                          font=any_font(random, size))  # fmt: skip
    return image


def chat(random: Generator) -> Image.Image:
    """Bubbles at the left and at the right."""
    image, draw, width, height = canvas(random, draw_colour(random, 200, 255))
    size, mine, theirs = max(13, width // 40), draw_colour(random, 120, 255), draw_colour(random, 220, 255)
    font, top = any_font(random, size), size
    while top < height:
        lines, right = int(random.integers(1, 5)), random.random() < 0.5
        wide = int(width * random.uniform(0.3, 0.65))
        left = width - wide - size if right else size
        box = (left, top, left + wide, top + size * (lines * 1.4 + 1))
        draw.rounded_rectangle(box, size, fill=mine if right else theirs)
        for line in range(lines):
            words = draw_words(random, max(1, wide // size // 4))
            draw.text(
                (left + size // 2, top + size * (0.5 + 1.4 * line)), words, fill=(15, 15, 15), font=font
            )
        top += int(size * (lines * 1.4 + 2))
    return image


def phone_home(random: Generator) -> Image.Image:
    """Rows of icons with names on a plain or shaded ground."""
    image, draw, width, height = canvas(random, (0, 0, 0))
    first, second = draw_colour(random), draw_colour(random)
    for row in range(height):
        mixed = tuple(int(a + (b - a) * row / height) for a, b in zip(first, second, strict=True))
        draw.line((0, row, width, row), fill=mixed)
    columns = int(random.integers(4, 7))
    step = width // columns
    for top in range(step // 2, height - step, int(step * 1.35)):
        for left in range(0, step * columns, step):
            box = (left + step * 0.2, top, left + step * 0.8, top + step * 0.6)
            draw.rounded_rectangle(box, step * 0.12, fill=draw_colour(random))
            draw.ellipse((left + step * 0.35, top + step * 0.15, left + step * 0.65, top + step * 0.45),
                         fill=draw_colour(random))  # fmt: skip
            draw.text((left + step * 0.25, top + step * 0.7), draw_words(random, 1), fill=(255, 255, 255),
                      font=any_font(random, max(9, step // 9)))  # fmt: skip
    return image


def newspaper(random: Generator) -> Image.Image:
    """Narrow columns of small print under a headline."""
    image, draw, width, height = canvas(random, (238, 233, 220) if random.random() < 0.5 else (255, 255, 255))
    size = int(random.integers(9, 15))
    font, columns = any_font(random, size), int(random.integers(2, 6))
    draw.text((size, size), draw_words(random, 4), fill=(0, 0, 0), font=load_font("DejaVuSerif", size * 4))
    wide = width // columns
    for left in range(0, width - wide + 1, wide):
        for top in range(size * 7, height - size, int(size * 1.3)):
            if random.random() < 0.94:
                words = draw_words(random, max(1, int(wide / size / 4)))
                draw.text((left + size, top), words, fill=(25, 25, 25), font=font)
    return image


def receipt(random: Generator) -> Image.Image:
    """A narrow strip of prices, with a bar code."""
    image, draw, width, height = canvas(random, draw_colour(random, 60, 200))
    left, right = int(width * 0.25), int(width * 0.75)
    draw.rectangle((left, 0, right, height), fill=(250, 250, 246))
    size = max(11, (right - left) // 26)
    font = load_font("DejaVuSansMono", size)
    for top in range(size, height - size * 8, int(size * 1.5)):
        draw.text((left + size, top), draw_words(random, 1), fill=(30, 30, 30), font=font)
        draw.text((right - size * 5, top), f"{random.uniform(0, 99):6.2f}", fill=(30, 30, 30), font=font)
    _draw_bars(draw, random, (left + size, height - size * 6, right - size, height - size))
    return image


def _draw_bars(draw: ImageDraw.ImageDraw, random: Generator, box: tuple[int, int, int, int]) -> None:
    at = box[0]
    while at < box[2]:
        wide = int(random.integers(1, 5)) * max(1, (box[2] - box[0]) // 200)
        draw.rectangle((at, box[1], at + wide, box[3]), fill=(0, 0, 0))
        at += wide + int(random.integers(1, 5)) * max(1, (box[2] - box[0]) // 200)


def bar_code(random: Generator) -> Image.Image:
    """Upright bars of four widths."""
    image, draw, width, height = canvas(random, (255, 255, 255))
    _draw_bars(draw, random, (width // 12, height // 6, width * 11 // 12, height * 4 // 5))
    return image


def square_code(random: Generator) -> Image.Image:
    """Random black squares with three finder marks, as in a QR code."""
    cells = int(random.integers(21, 58))
    values = random.integers(0, 2, (cells, cells)) * 255
    for row, column in ((0, 0), (0, cells - 7), (cells - 7, 0)):
        values[row : row + 7, column : column + 7] = 0
        values[row + 1 : row + 6, column + 1 : column + 6] = 255
        values[row + 2 : row + 5, column + 2 : column + 5] = 0
    edge = int(random.integers(400, 900))
    code = (
        Image.fromarray(values.astype(np.uint8)).convert("RGB").resize((edge, edge), Image.Resampling.NEAREST)
    )
    image, _, width, height = canvas(random, (255, 255, 255))
    image.paste(code, ((width - edge) // 2, (height - edge) // 2))
    return image


def slide(random: Generator) -> Image.Image:
    """A heading and bullet points."""
    light = random.random() < 0.5
    image, draw, width, height = canvas(
        random, draw_colour(random, 200, 255) if light else draw_colour(random, 0, 90)
    )
    ink = (20, 20, 40) if light else (245, 245, 245)
    size = max(14, height // 18)
    draw.text((size * 2, size), draw_words(random, 3), fill=ink, font=any_font(random, int(size * 1.6)))
    draw.line((size * 2, size * 3.4, width - size * 2, size * 3.4), fill=draw_colour(random), width=4)
    for line in range(int(random.integers(2, 6))):
        top = size * (4.5 + 2 * line)
        draw.ellipse((size * 2, top + size // 3, size * 2.4, top + size // 3 + size * 0.4), fill=ink)
        draw.text((size * 3, top), draw_words(random, 5), fill=ink, font=any_font(random, size))
    return image
