"""A captioned data set that a tiny model learns in seconds: coloured shapes, drawn on the spot."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {"red": (220, 40, 30), "green": (40, 180, 60), "blue": (40, 70, 220), "yellow": (240, 220, 50)}
SHAPES = ("circle", "square", "triangle")
SIZE = 32


def make_shapes(folder: Path, count: int = 24) -> Path:
    """Draw pictures of 32 x 32 pixels and write `captions.jsonl` beside them.

    Every fifth picture belongs to the split dev, the others to train; each has two captions.

    Args:
        folder: Where to; made if it is missing.
        count: How many pictures. Twelve are all colours of all shapes; then they come again, elsewhere.

    Returns:
        The same folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    kinds = itertools.cycle(itertools.product(COLOURS, SHAPES))
    for number, (colour, shape) in enumerate(itertools.islice(kinds, count)):
        name = f"{number:03d}.png"
        draw_shape(colour, shape, left=4 + number % 5, top=4 + number % 3).save(folder / name)
        captions = [f"A {colour} {shape}.", f"There is a {colour} {shape} on grey."]
        split = "dev" if number % 5 == 4 else "train"
        lines.append(json.dumps({"file_name": name, "captions": captions, "split": split}))
    (folder / "captions.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder


def tiny_recipe(root: Path) -> dict[str, Any]:
    """A recipe in two stages, as a table, for `make_shapes(root / "shapes")`: a second or two of one core."""
    return {
        "name": "shapes",
        "threads": 1,
        "device": "cpu",
        "data": {
            "root": str(root),
            "cache": str(root / "cache"),
            "train": [{"source": "shapes", "split": "train"}],
            "validation": [{"source": "shapes", "split": "dev"}],
        },
        "tokenizer": {"min_count": 1, "max_tokens": 10},
        "encoder": {"image_size": SIZE, "patch_size": 8, "width": 32, "depth": 2, "heads": 2},
        "decoder": {"width": 32, "depth": 2, "heads": 2, "max_length": 12, "dropout": 0.1},
        "stages": [
            {
                "name": "frozen encoder",
                "frozen_blocks": 1,
                "passes": 6,
                "learning_rate": 5e-3,
                "encoder_learning_rate": 1e-3,
                "batch_size": 8,
                "captions_per_image": 2,
                "warmup_steps": 2,
                "views": 3,
            },
            {
                "name": "end to end",
                "passes": 6,
                "learning_rate": 2e-3,
                "encoder_learning_rate": 1e-3,
                "layer_decay": 0.8,
                "batch_size": 8,
                "captions_per_image": 2,
                "warmup_steps": 2,
            },
        ],
        "optimizer": {"average_decay": 0.9},
        "validation": {"every_passes": 3},
        "generation": {"num_beams": 2, "max_new_tokens": 10},
    }


def draw_shape(colour: str, shape: str, left: int, top: int) -> Image.Image:
    """One shape of 20 pixels on grey."""
    image = Image.new("RGB", (SIZE, SIZE), (128, 128, 128))
    pen = ImageDraw.Draw(image)
    right, bottom = left + 20, top + 20
    if shape == "circle":
        pen.ellipse((left, top, right, bottom), fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle((left, top, right, bottom), fill=COLOURS[colour])
    else:
        pen.polygon([(left, bottom), (right, bottom), (left + 10, top)], fill=COLOURS[colour])
    return image
