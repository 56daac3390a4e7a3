"""Draws the README's picture: the example photos with what the shipped bundle says of them, nothing chosen.

python docs/gallery.py
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from kiloword import Caption, Captioner

REPOSITORY = Path(__file__).resolve().parent.parent
TARGET = REPOSITORY / "docs" / "gallery.jpg"
COLUMNS, TILE, TEXT_HEIGHT, GAP = 4, 300, 96, 12


def main() -> None:
    """Caption the photos and write the picture."""
    photos = sorted((REPOSITORY / "examples" / "photos").glob("*.jpg"))
    captioner = Captioner.load()
    tiles = [tile(photo, captioner.caption(photo)) for photo in photos]
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (TILE + GAP) + GAP, rows * (TILE + TEXT_HEIGHT + GAP) + GAP), "white")
    for index, picture in enumerate(tiles):
        row, column = divmod(index, COLUMNS)
        sheet.paste(picture, (GAP + column * (TILE + GAP), GAP + row * (TILE + TEXT_HEIGHT + GAP)))
    sheet.save(TARGET, quality=85)


def tile(photo: Path, caption: Caption) -> Image.Image:
    """One photo, cut to a square for the sheet only, with its caption and confidence below."""
    picture = Image.new("RGB", (TILE, TILE + TEXT_HEIGHT), "white")
    with Image.open(photo) as image:
        picture.paste(ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (TILE, TILE)), (0, 0))
    draw = ImageDraw.Draw(picture)
    lines = textwrap.wrap(caption.spoken, 34)[:3]
    draw.multiline_text((2, TILE + 6), "\n".join(lines), "black", ImageFont.load_default(17), spacing=3)
    draw.text((2, TILE + 74), f"confidence {caption.confidence:.2f}", "grey", ImageFont.load_default(14))
    return picture


if __name__ == "__main__":
    main()
