"""Where things are in photos: boxes or masks, in the layout of COCO's instances files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kiloword.runtime.errors import ConfigError

_RASTER = 200  # rows and columns that a mask is drawn with


@dataclass(frozen=True)
class Thing:
    """Something in a photo."""

    category: str
    """Its name, such as ``person``."""
    box: tuple[float, float, float, float]
    """Left, top, width and height, as shares of the photo."""
    polygons: tuple[tuple[float, ...], ...] = ()
    """Its outline: x, y, x, y, ... as shares of the photo; empty: the box is all that is known."""

    def raster(self) -> NDArray[np.bool_]:
        """Which parts of the photo it covers: bool (200, 200)."""
        image = Image.new("1", (_RASTER, _RASTER))
        pen = ImageDraw.Draw(image)
        left, top, width, height = (value * _RASTER for value in self.box)
        if self.polygons:
            for outline in self.polygons:
                pen.polygon([value * _RASTER for value in outline], fill=1)
        elif round(left + width) > round(left) and round(top + height) > round(top):
            pen.rectangle((round(left), round(top), round(left + width) - 1, round(top + height) - 1), fill=1)
        return np.asarray(image)


def read_boxes(path: Path) -> dict[str, list[Thing]]:
    """Read a file of boxes or masks.

    The layout is COCO's: ``images`` (``id``, ``file_name``, ``width``, ``height``), ``categories`` (``id``,
    ``name``) and ``annotations`` (``image_id``, ``category_id``, ``bbox`` as left, top, width, height in
    pixels, where there is one ``segmentation`` as a list of polygons; of run-length masks the boxes count).

    Returns:
        What is in each photo, by its file name without folders; photos without anything have an empty list.

    Raises:
        ConfigError: The file is missing or of another layout.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        sizes = {image["id"]: image for image in facts["images"]}
        names = {category["id"]: str(category["name"]) for category in facts["categories"]}
        found: dict[str, list[Thing]] = {_name(image): [] for image in facts["images"]}
        for annotation in facts["annotations"]:
            image = sizes[annotation["image_id"]]
            found[_name(image)].append(_thing(annotation, image, names[annotation["category_id"]]))
    except OSError as error:
        raise ConfigError([f"boxes: {error.strerror or error}"], path=path) from error
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        problem = f"boxes: not in the layout of COCO's instances files ({type(error).__name__}: {error})"
        raise ConfigError([problem], path=path, hint="docs/AUDIT.md shows the layout") from error
    return found


def _name(image: Mapping[str, Any]) -> str:
    return Path(str(image["file_name"])).name


def _thing(annotation: Mapping[str, Any], image: Mapping[str, Any], category: str) -> Thing:
    width, height = float(image["width"]), float(image["height"])
    left, top, across, down = (float(value) for value in annotation["bbox"])
    outlines = annotation.get("segmentation") or []
    polygons = [] if isinstance(outlines, Mapping) else outlines
    return Thing(
        category,
        (left / width, top / height, across / width, down / height),
        tuple(
            tuple(float(value) / (height if at % 2 else width) for at, value in enumerate(outline))
            for outline in polygons
            if len(outline) >= 6
        ),
    )
