"""Folders of photos to measure with: 12-megapixel JPEGs, and any number of small ones, no two the same.

    python -m benchmarks.folder_photos DIR --count 2000
    python -m benchmarks.folder_photos DIR --count 100000 --small

A few distinct pictures are made from the photos of `examples/`, enlarged and with grain as a camera's
sensor has it; the others are copies that differ in a comment of the JPEG, and so in their content's hash.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from PIL import Image

from benchmarks.machine import REPOSITORY

PHOTOS = REPOSITORY / "examples" / "photos"
SIZE_12_MP = (4000, 3000)
SIZE_SMALL = (96, 72)

_GRAIN = 6.0
_QUALITY = 88
_PER_FOLDER = 1000
_START_OF_IMAGE = b"\xff\xd8"
_COMMENT = b"\xff\xfe"


def make_photos(folder: Path, count: int, size: tuple[int, int] = SIZE_12_MP, distinct: int = 16) -> None:
    """Fill a folder with JPEGs in subfolders of a thousand; what is there already is left.

    Args:
        folder: Made if it is not there.
        count: How many photos.
        size: Width and height in pixels.
        distinct: How many different pictures.
    """
    pictures = list(_pictures(size, min(count, distinct)))
    for number in range(count):
        path = photo_path(folder, number)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(with_comment(pictures[number % len(pictures)], f"photo {number}"))


def photo_path(folder: Path, number: int) -> Path:
    """Where `make_photos` puts a photo."""
    return folder / f"{number // _PER_FOLDER:03d}" / f"{number:06d}.jpg"


def with_comment(jpeg: bytes, comment: str) -> bytes:
    """A JPEG with a comment segment behind its start: the same picture, another file.

    Source: ITU-T T.81, B.2.4.5: the length counts itself and the text.
    """
    text = comment.encode()
    segment = _COMMENT + (len(text) + 2).to_bytes(2, "big") + text
    return _START_OF_IMAGE + segment + jpeg.removeprefix(_START_OF_IMAGE)


def _pictures(size: tuple[int, int], count: int) -> Iterator[bytes]:
    """Different JPEGs: crops of the example photos, enlarged, mirrored, with grain."""
    random = np.random.default_rng(0)
    sources = sorted(PHOTOS.glob("*.jpg"))
    for number in range(count):
        with Image.open(sources[number % len(sources)]) as photo:
            left, top = (int(random.integers(0, edge // 5 + 1)) for edge in photo.size)
            box = (left, top, left + 4 * photo.width // 5, top + 4 * photo.height // 5)
            picture = photo.convert("RGB").resize(size, Image.Resampling.BICUBIC, box=box)
        if number >= len(sources):
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        grain = random.standard_normal((size[1], size[0], 1), dtype=np.float32) * _GRAIN
        pixels = (np.asarray(picture, dtype=np.float32) + grain).clip(0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY)
        yield stream.getvalue()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", default=2000, show_default=True, help="How many photos.")
@click.option("--small", is_flag=True, help="Of 96 x 72 pixels instead of 12 megapixels.")
def main(folder: Path, count: int, small: bool) -> None:
    """Make a folder of photos to measure with."""
    make_photos(folder, count, SIZE_SMALL if small else SIZE_12_MP)
    total = sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    click.echo(f"{count} photos, {total / 1e9:.2f} GB", err=True)


if __name__ == "__main__":
    main()
