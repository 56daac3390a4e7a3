"""Does attention lie where the thing is? On made scenes, where the place of everything is known.

Makes scenes (`train/scenes.py`), trains `train/recipes/shapes.toml` on some of them, exports, captions scenes
that it never saw, and counts how often the maximum of a shape's word lies inside that shape. Takes minutes.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import write_result
from kiloword.export.export import export_bundle
from kiloword.export.quantized import QuantizeOptions
from kiloword.runtime.captioner import Captioner
from kiloword.train.boxes import read_boxes
from kiloword.train.datasets import load_records
from kiloword.train.loop import train
from kiloword.train.pointing import Pointed, point, score_pointing
from kiloword.train.recipe_file import load_recipe
from kiloword.train.scenes import BOXES_FILE, write_scenes

SPLITS = {"train": 3000, "dev": 300, "test": 200}


def measure(bundle: Path, scenes: Path) -> dict[str, Any]:
    """Play the pointing game with a bundle on the split test.

    Args:
        bundle: Directory of a bundle that can tell where it looks.
        scenes: Folder that ``write_scenes`` made.

    Returns:
        Rates over shapes that were named, over all shapes that are there, and how many captions were right.
    """
    captioner = Captioner.load(bundle, provider="cpu", threads=1)
    records, things = load_records(scenes, "test").records, read_boxes(scenes / BOXES_FILE)
    pointed: list[Pointed] = []
    right = 0
    photos = [record.image for record in records]
    for record, caption in zip(records, captioner.caption_many(photos, attention=True), strict=True):
        pointed += point(record, caption, things[record.image.name], captioner.bundle.manifest.image)
        right += caption.text in record.captions
    shapes = sum(len(things[photo.name]) for photo in photos)
    hits = len({(one.image_id, one.word) for one in pointed if one.hit})
    return {
        "bundle": captioner.bundle.name,
        "precision": captioner.bundle.manifest.precision,
        "architecture": dict(captioner.bundle.manifest.architecture),
        "photos": len(photos),
        "captions_right": right,
        "shapes": shapes,
        "inside_of_all_shapes": round(hits / shapes, 4),
        "words": {kind: asdict(found) for kind, found in score_pointing(pointed).items()},
    }


@click.command()
@click.option(
    "--recipe", default="shapes", show_default=True, help="A recipe whose data set is called scenes."
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Measure this one instead of training.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder for scenes, run and bundles; kept.")
@click.option("--seed", default=0, show_default=True, help="Of the scenes.")
@click.option("--threads", default=1, show_default=True, help="For training.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    recipe: str, checkpoint: Path | None, work: Path | None, seed: int, threads: int, output: Path | None
) -> None:
    """Train on made scenes and count how often attention finds the shape."""
    with tempfile.TemporaryDirectory() if work is None else nullcontext(str(work)) as folder:
        root = Path(folder)
        scenes = write_scenes(root / "scenes", SPLITS, seed=seed)
        training_s: float | None = None
        if checkpoint is None:
            started = time.perf_counter()
            places = [f"data.root='{root.as_posix()}'", f"data.cache='{(root / 'cache').as_posix()}'"]
            plan = load_recipe(recipe, [*places, f"threads={threads}", "device=cpu"])
            checkpoint = train(plan, root / "run")
            training_s = round(time.perf_counter() - started, 1)
        bundles = export_bundle(
            checkpoint, root / "bundles", quantize=QuantizeOptions("static", force=True), calibration=scenes
        )
        rows = [measure(bundle, scenes) for bundle in bundles]
    for row in rows:
        every = row["words"]["all"]
        click.echo(
            f"{row['precision']:5} inside the shape: {every['hits']:.1%} of {every['words']} words, "
            f"{row['inside_of_all_shapes']:.1%} of {row['shapes']} shapes (by chance {every['chance']:.0%}); "
            f"{row['captions_right']} of {row['photos']} captions right"
        )
    settings = {"recipe": recipe, "splits": SPLITS, "seed": seed, "training_s": training_s}
    click.echo(f"wrote {write_result('pointing', settings, rows, output)}", err=True)


if __name__ == "__main__":
    main()
