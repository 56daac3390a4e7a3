"""Photos to measure ranges and agreement on: given ones, the training data's, or the examples."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kiloword.runtime.errors import ConfigError, ExportError, ImageError
from kiloword.runtime.folders import walk_photos
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import ImageSpec
from kiloword.train.datasets import load_records
from kiloword.train.recipe import Recipe

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "photos"
PHOTOS = 48
"""How many photos ranges are measured on: twice as many moved the ranges of ViT-Tiny by less than 2 %."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """Photos, and where they came from."""

    pixels: NDArray[np.uint8]
    """uint8 (photos, height, width, 3)."""
    source: str
    """For the report."""


def calibration_photos(folder: Path | None, recipe: Recipe | None, spec: ImageSpec) -> Calibration:
    """Finds photos for a checkpoint.

    Args:
        folder: photos that the user names; ``None`` to take the training data where it is, else the example
            photos of the repository with random crops of them.
        recipe: names the training data; ``None`` where it is not known.
        spec: size of the pixels.

    Raises:
        ExportError: there are no photos.
    """
    if folder is not None:
        return Calibration(_decode(_spread(_photos_in(folder)), spec), "given photos")
    if recipe is not None and (files := _training_photos(recipe)):
        return Calibration(_decode(_spread(files), spec), "training photos")
    if EXAMPLES.is_dir():
        pixels = _decode(_photos_in(EXAMPLES), spec)
        return Calibration(_with_views(pixels), "example photos and crops of them")
    raise ExportError("no photos to measure ranges on", hint="--calibration FOLDER")


def _photos_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise ExportError("no such folder", path=folder, expected="a folder of photos", found=what)
    found = [Path(item) for item in walk_photos(str(folder)) if isinstance(item, str)]
    if not found:
        raise ExportError("no photos in this folder", path=folder, hint="--calibration FOLDER")
    return found


def _training_photos(recipe: Recipe) -> list[Path]:
    """Photos of all training sets; none when the data is not on this machine."""
    files: list[Path] = []
    root = Path(recipe.data.root)
    for item in recipe.data.train:
        images = None if item.images is None else root / item.images
        try:
            loaded = load_records(
                root / item.source, item.split, images=images, max_bad_fraction=recipe.data.max_bad_fraction
            )
        except ConfigError:
            return []
        files += [record.image for record in loaded.records]
    return files


def _spread(files: list[Path]) -> list[Path]:
    """At most ``PHOTOS`` of them, evenly spread."""
    if len(files) <= PHOTOS:
        return files
    return [files[index] for index in np.linspace(0, len(files) - 1, PHOTOS).astype(int)]


def _decode(files: list[Path], spec: ImageSpec) -> NDArray[np.uint8]:
    pixels = []
    for file in files:
        try:
            pixels.append(load_image(file, spec))
        except ImageError as error:
            logger.warning("left out: %s", error)  # one photo less does not change the ranges
    if not pixels:
        raise ExportError("none of the photos can be read", path=files[0].parent, hint="--calibration FOLDER")
    return np.stack(pixels)


def _with_views(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photos and random views of them, ``PHOTOS`` in all."""
    import torch

    from kiloword.train.pictures import random_views

    repeats = -(-PHOTOS // len(pixels)) - 1
    many = torch.from_numpy(np.repeat(pixels, max(repeats, 1), axis=0))
    mirror = torch.arange(len(many)) % 2 == 0
    views = random_views(many, torch.Generator().manual_seed(0), mirror)
    return np.concatenate([pixels, views.numpy()])[:PHOTOS]
