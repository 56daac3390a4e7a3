"""The pictures that honesty is measured on: no photos, and none of the kinds that calibration has seen.

Other layouts, other fonts (matplotlib's instead of Pillow's), other colours and other seeds than
`train/nonphotos.py`, from which only the JPEG step and random words are taken.

    python -m benchmarks.nonphotos 200 FOLDER    writes them as PNG, to look at or to caption
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

from benchmarks.screens import (
    any_font,
    any_size,
    bar_code,
    canvas,
    chat,
    code_editor,
    dialog,
    newspaper,
    phone_home,
    receipt,
    slide,
    spreadsheet,
    square_code,
    to_image,
    web_page,
)
from kiloword.train import nonphotos
from kiloword.train.nonphotos import Maker, Nonphoto, draw_colour, draw_words

SEED = 20_240


def make_nonphotos(count: int, seed: int = SEED) -> Iterator[Nonphoto]:
    """Make pictures of all kinds in turns; the same each time.

    Args:
        count: How many.
        seed: Another one makes other pictures.
    """
    return nonphotos.make_nonphotos(count, seed, _MAKERS)


def _vignette(random: Generator) -> Image.Image:
    """Light in the middle, dark at the edges."""
    width, height = any_size(random)
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    distance = np.hypot(rows - random.uniform(-0.5, 0.5), columns - random.uniform(-0.5, 0.5))
    share = np.clip(1 - distance * random.uniform(0.4, 0.9), 0, 1)[:, :, None]
    return to_image(share * np.array(draw_colour(random, 90)) + (1 - share) * draw_colour(random, 0, 80))


def _overexposed(random: Generator) -> Image.Image:
    """Nearly white, with a trace of noise and a stain that is a little less white."""
    width, height = any_size(random)
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    stain = np.exp(
        -((rows - random.random()) ** 2 + (columns - random.random()) ** 2) * random.uniform(2, 20)
    )
    white = 254 - random.uniform(0, 12) * stain
    return to_image(white[:, :, None] + random.uniform(0, 3) * random.standard_normal((height, width, 3)))


def _lens_cap(random: Generator) -> Image.Image:
    """Dark noise that a small sensor makes: rows of unequal brightness and hot pixels."""
    width, height = any_size(random)
    values = 5 + 4 * random.standard_normal((height, 1, 3)) + 6 * random.standard_normal((height, width, 1))
    hot = random.random((height, width)) > 0.9995
    values[hot] = random.uniform(60, 255)
    return to_image(values)


def _salt_and_pepper(random: Generator) -> Image.Image:
    """One colour with black and white specks, as in a broken transmission."""
    width, height = any_size(random)
    values = np.full((height, width, 3), draw_colour(random), dtype=np.float64)
    specks = random.random((height, width))
    share = random.uniform(0.02, 0.3)
    values[specks < share], values[specks > 1 - share] = 0, 255
    return to_image(values)


def _pie_chart(random: Generator) -> Image.Image:
    image, draw, width, height = canvas(random, (255, 255, 255) if random.random() < 0.7 else (30, 30, 40))
    reach, slices = min(width, height) * random.uniform(0.25, 0.42), int(random.integers(3, 9))
    middle_x, middle_y = width * 0.4, height / 2
    box = (middle_x - reach, middle_y - reach, middle_x + reach, middle_y + reach)
    edges = np.concatenate(([0.0], np.cumsum(random.dirichlet(np.ones(slices))) * 360))
    for number in range(slices):
        colour = draw_colour(random, 30, 240)
        draw.pieslice(
            box, float(edges[number]), float(edges[number + 1]), fill=colour, outline=(255, 255, 255)
        )
        top = height * 0.2 + number * height * 0.07
        draw.rectangle((width * 0.82, top, width * 0.84, top + height * 0.03), fill=colour)
        draw.text((width * 0.86, top), draw_words(random, 1), fill=(120, 120, 120),
                  font=any_font(random, max(10, height // 40)))  # fmt: skip
    if random.random() < 0.4:
        hole = reach * 0.5
        draw.ellipse(
            (middle_x - hole, middle_y - hole, middle_x + hole, middle_y + hole), fill=(255, 255, 255)
        )
    return image


def _scatter_plot(random: Generator) -> Image.Image:
    image, draw, width, height = canvas(random, (255, 255, 255))
    draw.rectangle((width * 0.1, height * 0.08, width * 0.94, height * 0.9), outline=(0, 0, 0))
    for _ in range(int(random.integers(1, 4))):
        colour, dot = draw_colour(random, 0, 220), random.uniform(2, 8)
        middle, spread = random.uniform(0.3, 0.7, 2), random.uniform(0.02, 0.15, 2)
        for x, y in middle + spread * random.standard_normal((int(random.integers(20, 250)), 2)):
            x, y = float(x) * width, float(y) * height
            draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=colour)
    return image


def _heat_map(random: Generator) -> Image.Image:
    """A table of coloured cells between two colours, with a scale at the right."""
    rows, columns = random.integers(4, 30, 2)
    values = random.random((rows, columns, 1))
    low, high = np.array(draw_colour(random)), np.array(draw_colour(random))
    width, height = any_size(random)
    cells = Image.fromarray((low + values * (high - low)).astype(np.uint8))
    image = Image.new("RGB", (width, height), (255, 255, 255))
    size = (int(width * 0.78), int(height * 0.84))
    image.paste(cells.resize(size, Image.Resampling.NEAREST), (int(width * 0.06), int(height * 0.06)))
    scale = Image.fromarray((low + np.linspace(0, 1, 64)[:, None, None] * (high - low)).astype(np.uint8))
    image.paste(scale.resize((int(width * 0.03), size[1])), (int(width * 0.9), int(height * 0.06)))
    return image


def _area_chart(random: Generator) -> Image.Image:
    """Filled curves over each other."""
    image, draw, width, height = canvas(random, (255, 255, 255) if random.random() < 0.6 else (25, 28, 36))
    total = np.full(60, height * 0.92)
    across = np.linspace(width * 0.06, width * 0.96, 60)
    for _ in range(int(random.integers(2, 6))):
        walk = np.abs(random.standard_normal(60).cumsum()) + 2
        new = total - walk / walk.max() * height * 0.2
        outline = [*zip(across, total, strict=True), *zip(across[::-1], new[::-1], strict=True)]
        draw.polygon([(float(x), float(y)) for x, y in outline], fill=draw_colour(random, 40, 240))
        total = new
    return image


def _doodle(random: Generator) -> Image.Image:
    """One pen that wanders over the whole sheet."""
    image, draw, width, height = canvas(
        random, (255, 255, 255) if random.random() < 0.7 else draw_colour(random, 180)
    )
    ink = draw_colour(random, 0, 120)
    for _ in range(int(random.integers(1, 5))):
        turns = random.standard_normal(300).cumsum() * random.uniform(0.1, 0.5)
        path = np.stack((np.cos(turns), np.sin(turns)), axis=1).cumsum(axis=0) * random.uniform(4, 16)
        path += random.uniform(0.2, 0.8, 2) * (width, height)
        draw.line([(float(x), float(y)) for x, y in path], fill=ink, width=int(random.integers(2, 9)))
    return image


def _childs_house(random: Generator) -> Image.Image:
    """A house, a sun and stick figures, in crayon colours."""
    image, draw, width, height = canvas(random, (255, 255, 255) if random.random() < 0.5 else (190, 225, 255))
    pen = int(random.integers(3, 10))
    ground = height * random.uniform(0.65, 0.85)
    draw.rectangle((0, ground, width, height), fill=draw_colour(random, 60, 200))
    left, wide = width * random.uniform(0.1, 0.5), width * random.uniform(0.2, 0.4)
    top = ground - wide * 0.8
    draw.rectangle(
        (left, top, left + wide, ground), fill=draw_colour(random, 120), outline=(0, 0, 0), width=pen
    )
    roof = [(left - wide * 0.1, top), (left + wide / 2, top - wide * 0.5), (left + wide * 1.1, top)]
    draw.polygon(roof, fill=draw_colour(random, 100, 230), outline=(0, 0, 0), width=pen)
    draw.ellipse((width * 0.8, height * 0.05, width * 0.92, height * 0.05 + width * 0.12), fill=(255, 210, 0))
    for _ in range(int(random.integers(0, 4))):
        x, head = width * random.uniform(0.05, 0.95), height * 0.04
        neck = ground - height * 0.15
        draw.ellipse((x - head, neck - 2 * head, x + head, neck), outline=(0, 0, 0), width=pen)
        draw.line((x, neck, x, ground), fill=(0, 0, 0), width=pen)
        draw.line((x - head * 1.5, neck + head, x + head * 1.5, neck + head), fill=(0, 0, 0), width=pen)
    return image


def _sheet_music(random: Generator) -> Image.Image:
    image, draw, width, height = canvas(random, (255, 253, 248))
    gap = max(5, height // 90)
    for top in range(gap * 6, height - gap * 8, gap * 12):
        for line in range(5):
            draw.line((gap * 3, top + line * gap, width - gap * 3, top + line * gap), fill=(0, 0, 0))
        for left in range(gap * 8, width - gap * 5, int(gap * random.uniform(3, 6))):
            y = top + gap * random.uniform(-1, 5)
            draw.ellipse((left, y, left + gap * 1.3, y + gap), fill=(0, 0, 0))
            draw.line((left + gap * 1.3, y + gap / 2, left + gap * 1.3, y - gap * 3), fill=(0, 0, 0), width=2)
    return image


def _street_map(random: Generator) -> Image.Image:
    """Roads as wide lines over areas in pale colours."""
    image, draw, width, height = canvas(random, (242, 239, 233))
    for _ in range(int(random.integers(3, 9))):
        x, y = random.uniform(0, 1, 2) * (width, height)
        corners = (x, y) + random.uniform(-0.3, 0.3, (6, 2)) * (width, height)
        draw.polygon([(float(a), float(b)) for a, b in corners], fill=draw_colour(random, 170, 235))
    for _ in range(int(random.integers(8, 30))):
        ends = random.uniform(-0.1, 1.1, (3, 2)) * (width, height)
        line, wide = [(float(a), float(b)) for a, b in ends], int(random.integers(4, 16))
        draw.line(line, fill=(180, 180, 180), width=wide + 3)
        draw.line(line, fill=(255, 255, 255) if random.random() < 0.7 else (250, 215, 120), width=wide)
    for _ in range(12):
        x, y = random.uniform(0, 0.9, 2) * (width, height)
        draw.text((float(x), float(y)), draw_words(random, 1), fill=(70, 70, 70), font=any_font(random, 14))
    return image


def _dots_and_rings(random: Generator) -> Image.Image:
    """Polka dots or circles around one middle."""
    image, draw, width, height = canvas(random, draw_colour(random))
    colour, step = draw_colour(random), int(random.integers(20, 140))
    if random.random() < 0.5:
        for top in range(0, height, step):
            for left in range(0, width, step):
                draw.ellipse((left, top, left + step * 0.6, top + step * 0.6), fill=colour)
    else:
        for reach in range(max(width, height), 0, -step):
            box = (width / 2 - reach, height / 2 - reach, width / 2 + reach, height / 2 + reach)
            draw.ellipse(box, outline=colour, width=step // 2)
    return image


def _plaid(random: Generator) -> Image.Image:
    """Crossing bands that mix, as on cloth."""
    width, height = any_size(random)
    period = int(random.integers(40, 220))
    down, across = (random.integers(0, 256, (period, 3)).astype(np.float64) for _ in range(2))
    bands = (
        np.repeat(down[:: period // 5], period // 5, axis=0),
        np.repeat(across[:: period // 7], period // 7, axis=0),
    )
    rows = bands[0][np.arange(height) % len(bands[0])][:, None]
    columns = bands[1][np.arange(width) % len(bands[1])][None]
    return to_image((rows + columns) / 2)


def _test_card(random: Generator) -> Image.Image:
    """Upright bars in full colours over a grey ramp."""
    image, draw, width, height = canvas(random, (0, 0, 0))
    bars = int(random.integers(5, 10))
    for bar in range(bars):
        box = (width * bar / bars, 0, width * (bar + 1) / bars, height * 0.7)
        draw.rectangle(box, fill=tuple(int(value) * 255 for value in random.integers(0, 2, 3)))
    for column in range(width):
        draw.line((column, height * 0.7, column, height), fill=(column * 255 // width,) * 3)
    return image


def _blurred_blobs(random: Generator) -> Image.Image:
    """Soft spots of colour without any edge."""
    image, draw, width, height = canvas(random, draw_colour(random))
    for _ in range(int(random.integers(3, 12))):
        x, y, reach = *(random.uniform(0, 1, 2) * (width, height)), random.uniform(0.1, 0.4) * width
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=draw_colour(random))
    return image.filter(ImageFilter.GaussianBlur(float(random.uniform(0.05, 0.12)) * width))


_MAKERS: dict[str, Maker] = {
    maker.__name__.strip("_").replace("_", " "): maker
    for maker in (
        _vignette, code_editor, _pie_chart, _doodle, _overexposed, spreadsheet, _scatter_plot, _childs_house,
        _lens_cap, web_page, _heat_map, _sheet_music, _salt_and_pepper, dialog, _area_chart, _street_map,
        square_code, chat, slide, _dots_and_rings, bar_code, phone_home, newspaper, _plaid,
        receipt, _test_card, _blurred_blobs,
    )
}  # fmt: skip


def main(count: str, folder: str) -> None:
    """Write pictures into a folder."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(make_nonphotos(int(count))):
        picture.image.save(target / f"{number:04}-{picture.kind.replace(' ', '-')}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
