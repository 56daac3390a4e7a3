"""One table from the bottleneck to "only transformers": trains, exports, quantizes and scores each captioner.

All learn from Flickr8k's training photos by one short schedule with their published encoder weights frozen;
all are scored on its test photos. What is finished is skipped, so the command can be stopped and started
again; only the times for a photo are measured each time, of all of them together at the end.
`build/captioners/` holds the runs and bundles.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.machine import REPOSITORY, write_result
from benchmarks.quality import DATA
from kiloword.runtime.bundle import load_bundle
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.errors import KilowordError
from kiloword.runtime.generation import generate
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import GenerationSettings
from kiloword.runtime.outputs import write_atomically
from kiloword.runtime.sessions import load_sessions
from kiloword.train.datasets import CaptionRecord, load_records
from kiloword.train.evaluation import evaluate
from kiloword.train.recipe import Recipe
from kiloword.train.recipe_file import load_recipe

RECIPES = (
    "table_show_tell",
    "table_show_attend_tell",
    "table_cnn_transformer",
    "table_hybrid",
    "table_vit_transformer",
)
WORK = REPOSITORY / "build" / "captioners"
_TIMED_PHOTOS = 48


def row_of(
    recipe: Recipe,
    folder: Path,
    data: Path,
    *,
    limit: int | None,
    num_beams: int,
    tokenizer: Any,
) -> dict[str, Any]:
    """One captioner's row; what an earlier start finished is not done again.

    Args:
        recipe: What to train.
        folder: Of its run, its bundles and its row.
        data: Folder with flickr8k/.
        limit: Score only the first photos of the test part; None for all.
        num_beams: Beams for the scores.
        tokenizer: For the scores, `java` for the reference.
    """
    choices = {"recipe": recipe.digest(), "limit": limit, "num_beams": num_beams, "tokenizer": tokenizer}
    key = hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()[:12]
    finished = folder / f"row-{key}.json"
    if finished.is_file():
        click.echo(f"{recipe.name}: finished before", err=True)
        row: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        return row
    run = folder / recipe.digest()
    row = {"name": recipe.name, **_trained(recipe, run)}
    records = load_records(data / "flickr8k", "test").records[:limit]
    for precision, bundle in _bundles(run).items():
        row[precision] = _scored(bundle, records, num_beams, tokenizer)
    with write_atomically(finished) as file:
        json.dump(row, file, indent=1)
    return row


def _trained(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Trains to the end, from where an earlier start stopped."""
    from kiloword.train.checkpoint import load_checkpoint
    from kiloword.train.loop import train

    best = train(recipe, run, resume=(run / "resume").is_dir())
    checkpoint = load_checkpoint(best)
    model = checkpoint.model
    state = json.loads((run / "resume" / "resume.json").read_text(encoding="utf-8"))
    return {
        "encoder": recipe.encoder.describe(),
        "decoder": recipe.decoder.describe(),
        "encoder_parameters": sum(item.numel() for item in model.encoder.parameters()),
        "decoder_parameters": sum(item.numel() for item in model.decoder.parameters()),
        "passes": sum(stage.passes for stage in recipe.stages),
        # Steps alone: features of frozen encoders are shared by the rows and computed once.
        "training_seconds": round(state["position"]["seconds"]),
        "validation_cider": checkpoint.training["validation_cider"]["mean"],
    }


def _bundles(run: Path) -> dict[str, Path]:
    from kiloword.export.export import export_bundle
    from kiloword.export.quantized import QuantizeOptions

    output = run / "bundles"
    if not (output / "int8" / "bundle.json").is_file():
        export_bundle(run / "best", output, quantize=QuantizeOptions("static", force=True))
    return {precision: output / precision for precision in ("fp32", "int8")}


def _scored(bundle: Path, records: Sequence[CaptionRecord], num_beams: int, tokenizer: Any) -> dict[str, Any]:
    with Captioner.load(bundle, provider="cpu") as captioner:
        report = evaluate(captioner, records, num_beams=num_beams, tokenizer=tokenizer)
    scores = report.as_dict()["metrics"]
    return {
        "megabytes": round(load_bundle(bundle).size_bytes / 1e6, 2),
        "bleu_4": round(scores["bleu_4"], 2),
        "cider": round(scores["cider"], 2),
    }


def time_together(
    bundles: Sequence[Path], photos: Sequence[Path], threads: int = 1
) -> list[dict[str, float]]:
    """Median milliseconds of a greedy caption and of one of its tokens; each photo goes through all bundles.

    Args:
        bundles: What is timed.
        photos: Each is captioned by itself; the first one is not counted.
        threads: Of each session.
    """
    opened = []
    for bundle in map(load_bundle, bundles):
        settings = GenerationSettings(num_beams=1, max_new_tokens=bundle.manifest.generation.max_new_tokens)
        opened.append((bundle.manifest, load_sessions(bundle, "cpu", threads=threads), settings))
    times: list[list[tuple[float, float]]] = [[] for _ in bundles]
    for photo in photos:
        for (manifest, sessions, settings), mine in zip(opened, times, strict=True):
            pixels = load_image(photo, manifest.image)[None]
            started = time.perf_counter()
            encoded = sessions.encoder.encode(pixels)
            encoded_at = time.perf_counter()
            (found,) = generate(sessions.decoder, encoded, manifest.tokens, settings)
            ended = time.perf_counter()
            mine.append((ended - started, (ended - encoded_at) / max(1, len(found.token_ids))))
    return [
        {
            "ms_per_photo": round(1000 * median(photo for photo, _ in mine[1:]), 2),
            "ms_per_token": round(1000 * median(token for _, token in mine[1:]), 3),
        }
        for mine in times
    ]


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for people, int8 with fp32 in brackets."""
    columns = (("bleu_4", 14), ("cider", 16), ("megabytes", 14), ("ms_per_photo", 16), ("ms_per_token", 16))
    lines = [" " * 28 + "".join(f"{key:>{width}}" for key, width in columns) + f"{'training s':>12}"]
    for row in rows:
        cells = [f"{row['int8'][key]} ({row['fp32'][key]})".rjust(width) for key, width in columns]
        lines.append(f"{row['name']:28}{''.join(cells)}{row['training_seconds']:12}")
    return "\n".join(lines)


@click.command()
@click.option("--recipe", "names", multiple=True, default=RECIPES, help="By default all of the table.")
@click.option("--set", "overrides", multiple=True, help="As for `kiloword train`, for every recipe.")
@click.option("--data", type=click.Path(path_type=Path), default=DATA, help="With flickr8k/ and encoders/.")
@click.option("--num-beams", type=int, default=1, show_default=True, help="For the scores.")
@click.option("--tokenizer", type=click.Choice(("java", "own")), default="java", show_default=True)
@click.option("--limit", type=int, help="Score only the first test photos, to try something out.")
@click.option("--work", type=click.Path(path_type=Path), default=WORK, help="Folder for runs and bundles.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    names: tuple[str, ...],
    overrides: tuple[str, ...],
    data: Path,
    num_beams: int,
    tokenizer: str,
    limit: int | None,
    work: Path,
    output: Path | None,
) -> None:
    """Train and compare the captioners of the table."""
    rows, bundles = [], []
    try:
        for name in names:
            recipe = load_recipe(name, [f"data.root={json.dumps(str(data))}", *overrides])
            rows.append(
                row_of(recipe, work / name, data, limit=limit, num_beams=num_beams, tokenizer=tokenizer)
            )
            bundles.append(_bundles(work / name / recipe.digest()))
            click.echo(f"{name}: {json.dumps(rows[-1])}", err=True)
        photos = [record.image for record in load_records(data / "flickr8k", "test").records]
        kinds = [
            (row, kind, bundle)
            for row, mine in zip(rows, bundles, strict=True)
            for kind, bundle in mine.items()
        ]
        times = time_together([bundle for _, _, bundle in kinds], photos[:_TIMED_PHOTOS])
        for (row, kind, _), measured in zip(kinds, times, strict=True):
            row[kind] |= measured
    except KilowordError as error:
        raise click.ClickException(str(error)) from error
    click.echo(as_table(rows))
    settings = {"num_beams": num_beams, "tokenizer": tokenizer, "limit": limit, "overrides": list(overrides)}
    click.echo(f"wrote {write_result('captioners', settings, rows, output)}", err=True)


if __name__ == "__main__":
    main()
