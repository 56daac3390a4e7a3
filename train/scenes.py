"""Made scenes with captions and boxes: coloured shapes at known places, to see whether attention finds them.

A data set like any other (`captions.jsonl` beside the pictures), with what photos do not have: the exact
place of everything that the captions name. No picture is like another, and the same seed makes the same ones.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from kiloword.runtime.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLOURS = {
    "red": (214, 45, 40),
    "green": (45, 165, 70),
    "blue": (45, 80, 215),
    "yellow": (240, 205, 50),
    "purple": (140, 60, 170),
    "orange": (245, 135, 35),
}
"""What shapes are painted with, by the word for it; each is varied a little."""
SHAPES = ("circle", "square", "triangle", "cross")
"""What there is to see, by the word for it."""
BOXES_FILE = "boxes.json"
"""Boxes and outlines of all shapes, in COCO's layout."""

_SMALLEST, _LARGEST = 0.38, 0.46  # edge of a shape, as a share of the picture's
_OVERSAMPLING = 4
_PLACES_TRIED = 50
_FULL = 0.9  # share of scenes with more than one shape
_ARM = 0.28  # of a cross: where its arms begin
# Corners in a box of 1 x 1.
_CORNERS: dict[str, list[tuple[float, float]]] = {
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "triangle": [(0, 1), (1, 1), (0.5, 0)],
    "cross": [
        *((_ARM, 0), (1 - _ARM, 0), (1 - _ARM, _ARM), (1, _ARM), (1, 1 - _ARM), (1 - _ARM, 1 - _ARM)),
        *((1 - _ARM, 1), (_ARM, 1), (_ARM, 1 - _ARM), (0, 1 - _ARM), (0, _ARM), (_ARM, _ARM)),
    ],
}


@dataclass(frozen=True)
class Shape:
    """One shape of a scene."""

    kind: str
    """One of `SHAPES`."""
    colour: str
    """One of `COLOURS`."""
    left: int
    """Left edge of its box in pixels."""
    top: int
    size: int
    """Edge of its box in pixels."""

    def outline(self) -> list[tuple[float, float]]:
        """Its corners, x and y in pixels; a circle has 48."""
        if self.kind == "circle":
            turns = [2 * math.pi * step / 48 for step in range(48)]
            unit = [((1 + math.cos(turn)) / 2, (1 + math.sin(turn)) / 2) for turn in turns]
        else:
            unit = _CORNERS[self.kind]
        return [(self.left + x * self.size, self.top + y * self.size) for x, y in unit]

    def mask(self, picture: int) -> NDArray[np.bool_]:
        """Which pixels it covers: bool (picture, picture)."""
        drawn = Image.new("L", (picture, picture))
        ImageDraw.Draw(drawn).polygon(self.outline(), fill=255)
        return np.asarray(drawn) > 0


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it."""

    pixels: NDArray[np.uint8]
    """uint8 (size, size, 3), RGB."""
    shapes: tuple[Shape, ...]
    """In the alphabet's order of their colours, which a mirror does not change; no two are of the same kind
    or colour, none touches another."""

    @property
    def captions(self) -> tuple[str, ...]:
        """Two sentences that say the same."""
        named = [
            f"{'an' if shape.colour == 'orange' else 'a'} {shape.colour} {shape.kind}"
            for shape in self.shapes
        ]
        return " and ".join(named), f"there is {' next to '.join(named)}"


def make_scene(seed: int, size: int = 40, most_shapes: int = 2) -> Scene:
    """Draw one scene.

    Args:
        seed: Chooses everything.
        size: Height and width in pixels.
        most_shapes: In nine scenes of ten there are this many, else one; 1 or 2, for there is room for two.
    """
    random = np.random.default_rng(seed)
    shapes: list[Shape] = []
    count = most_shapes if random.random() < _FULL else 1
    while len(shapes) < count:
        shapes = _placed(random, count, size)
    # By the colour, which says nothing of the kind: who has written "a red" must look for what is red.
    shapes.sort(key=lambda shape: shape.colour)
    grey = random.uniform(90, 200, 3) * 0.3 + random.uniform(90, 200) * 0.7
    picture = Image.new("RGB", (size * _OVERSAMPLING,) * 2, tuple(int(value) for value in grey))
    for shape in shapes:
        paint = np.clip(np.array(COLOURS[shape.colour]) + random.integers(-18, 19, 3), 0, 255)
        corners = [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in shape.outline()]
        ImageDraw.Draw(picture).polygon(corners, fill=tuple(int(value) for value in paint))
    small = np.asarray(picture.resize((size, size), Image.Resampling.BOX), dtype=np.float32)
    noisy = small + random.normal(0, 6, small.shape)
    return Scene(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), tuple(shapes))


def _placed(random: np.random.Generator, count: int, size: int) -> list[Shape]:
    """Shapes of different kinds and colours at any places; fewer where the first ones leave no room."""
    kinds, colours = random.permutation(SHAPES)[:count], random.permutation(list(COLOURS))[:count]
    shapes: list[Shape] = []
    for kind, colour in zip(kinds, colours, strict=True):
        for _ in range(_PLACES_TRIED):
            edge = int(random.integers(round(_SMALLEST * size), round(_LARGEST * size) + 1))
            left, top = (int(random.integers(1, size - edge)) for _ in range(2))
            shape = Shape(str(kind), str(colour), left, top, edge)
            if not any(_touch(shape, other) for other in shapes):
                shapes.append(shape)
                break
    return shapes


def _touch(one: Shape, other: Shape) -> bool:
    """Whether less than two pixels are between their boxes."""
    across, down = abs(one.left - other.left), abs(one.top - other.top)
    first = one if one.left < other.left else other
    upper = one if one.top < other.top else other
    return across < first.size + 2 and down < upper.size + 2


def write_scenes(folder: Path, splits: dict[str, int], seed: int = 0, size: int = 40) -> Path:
    """Write a data set of scenes: PNG files, `captions.jsonl` with splits, and `boxes.json`.

    Args:
        folder: Where to; made if it is not there.
        splits: How many scenes of each split, such as ``{"train": 2000, "test": 200}``.
        seed: The scene with number n has the seed ``seed + n``, so that splits never share one.
        size: Height and width in pixels.

    Returns:
        The folder.

    Raises:
        ConfigError: There is something else in the folder.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / BOXES_FILE).is_file():
        raise ConfigError(["expected a new folder, or one with scenes to replace"], path=folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [split for split, count in splits.items() for _ in range(count)]
    lines: list[str] = []
    images: list[dict[str, object]] = []
    boxes: list[dict[str, object]] = []
    for number, split in enumerate(names):
        scene, name = make_scene(seed + number, size), f"{number:05d}.png"
        Image.fromarray(scene.pixels).save(folder / name)
        lines.append(json.dumps({"file_name": name, "captions": scene.captions, "split": split}) + "\n")
        images.append({"id": number, "file_name": name, "width": size, "height": size})
        for shape in scene.shapes:
            box = [shape.left, shape.top, shape.size, shape.size]
            kind = SHAPES.index(shape.kind) + 1
            outline = [round(value, 2) for corner in shape.outline() for value in corner]
            place = {"image_id": number, "category_id": kind, "bbox": box, "segmentation": [outline]}
            boxes.append({"id": len(boxes) + 1, **place})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(SHAPES)]
    facts = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "captions.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / BOXES_FILE).write_text(json.dumps(facts), encoding="utf-8")
    return folder
