"""Draws the README's second picture: where the shipped bundle looked for the first thing that it names.

python docs/attention.py
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kiloword import Captioner
from kiloword.runtime.explain import Explanation, explain
from kiloword.runtime.overlays import lay_over

REPOSITORY = Path(__file__).resolve().parent.parent
TARGET = REPOSITORY / "docs" / "attention.png"
PHOTOS = ("astronaut", "eagle", "officer", "photographer", "raccoon")
"""Of the example photos, those whose main thing does not fill the picture: there is something to miss."""
TILE, GAP, LABEL = 216, 10, 78
# Words of a caption that name no thing: the first other one is shown.
NO_THINGS = {
    "a",
    "an",
    "the",
    "one",
    "two",
    "black",
    "white",
    "brown",
    "red",
    "orange",
    "little",
    "young",
    "small",
}


def main() -> None:
    """Caption the photos and write the picture."""
    captioner = Captioner.load()
    found = [explain(captioner, REPOSITORY / "examples" / "photos" / f"{name}.jpg") for name in PHOTOS]
    sheet = Image.new("RGB", (len(found) * (TILE + GAP) + GAP, 2 * (TILE + GAP) + LABEL + GAP), "white")
    for column, one in enumerate(found):
        left = GAP + column * (TILE + GAP)
        index = thing_of(one)
        lit = lay_over(one.seen.pixels, one.maps[index])
        sheet.paste(square(one.seen.pixels), (left, GAP))
        sheet.paste(square(lit), (left, 2 * GAP + TILE))
        text = f"\N{LEFT DOUBLE QUOTATION MARK}{one.labels[index]}\N{RIGHT DOUBLE QUOTATION MARK}"
        pen, middle, below = ImageDraw.Draw(sheet), left + TILE // 2, 2 * (GAP + TILE) + 2
        pen.text((middle, below), text, "black", ImageFont.load_default(20), anchor="ma")
        sentence = "\n".join(textwrap.wrap(one.title, 30)[:3])
        pen.multiline_text(
            (middle, below + 28), sentence, "grey", ImageFont.load_default(13), anchor="ma", align="center"
        )
    palette = sheet.quantize(256)  # a third of the bytes of true colour
    sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(TARGET, optimize=True)


def thing_of(found: Explanation) -> int:
    """The index of the first word that names a thing."""
    return next(index for index, word in enumerate(found.labels) if word.casefold() not in NO_THINGS)


def square(pixels: NDArray[np.uint8]) -> Image.Image:
    """A photo squeezed into a tile, in its own proportions, on white."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (TILE, TILE), "white")
    tile.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    return tile


if __name__ == "__main__":
    main()
