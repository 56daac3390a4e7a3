"""Milliseconds from decoded pixels to the caption's tokens: bundles and torch eager, side by side.

All variants live in one process that is pinned to as many processors as there are threads. They take turns
photo by photo: whatever else the machine does meets them alike, so that ratios hold where single times do
not. The ratio of two variants is the median of their ratios on the same photo in the same round.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.checkpoints import export_fp32, find_checkpoint
from benchmarks.machine import REPOSITORY, pin_to_cpus, shown_path, summarize, write_result
from kiloword.runtime.bench.timing import Sample, paired_ratio, take_turns
from kiloword.runtime.bundle import Bundle, load_bundle
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import GenerationSettings

Pixels = NDArray[np.uint8]
TokenIds = tuple[int, ...]
Generate = Callable[[Pixels, GenerationSettings], list[TokenIds]]

PHOTOS = REPOSITORY / "examples" / "photos"
WARM_UP_ROUNDS = 3


@dataclass(frozen=True)
class Variant:
    """One way to caption, under the name that results give it."""

    name: str
    generate: Generate
    """uint8 pixels (batch_size, height, width, 3) and settings -> token ids of each photo."""
    size_bytes: int | None = None
    """What it takes on disk."""


@dataclass(frozen=True)
class Timings:
    """What one variant took in one case."""

    samples: Sequence[Sample]
    """One for each call; of one photo."""
    tokens: Sequence[TokenIds]
    """Of each photo of each call."""


def bundle_variant(bundle: Bundle, threads: int) -> Variant:
    """Load a bundle as the runtime does."""
    captioner = Captioner.load(bundle.directory, provider="cpu", threads=threads)

    def generate(pixels: Pixels, settings: GenerationSettings) -> list[TokenIds]:
        captions = captioner.caption_pixels(
            pixels,
            num_beams=settings.num_beams,
            max_new_tokens=settings.max_new_tokens,
            length_penalty=settings.length_penalty,
            no_repeat_ngram_size=settings.no_repeat_ngram_size,
        )
        return [caption.token_ids for caption in captions]

    return Variant(f"{bundle.manifest.precision} bundle", generate, bundle.size_bytes)


def torch_variant(checkpoint: Path, threads: int) -> Variant:
    """Load a checkpoint in torch, which is imported only here."""
    from benchmarks.torch_eager import TorchCaptioner

    return Variant("torch eager fp32", TorchCaptioner(checkpoint, threads).generate)


def batches_of(pixels: Sequence[Pixels], batch_size: int, rounds: int) -> list[Pixels]:
    """One batch for each round, going around the photos."""
    starts = range(0, rounds * batch_size, batch_size)
    return [
        np.stack([pixels[(start + offset) % len(pixels)] for offset in range(batch_size)]) for start in starts
    ]


def measure(
    variants: Sequence[Variant], batches: Sequence[Pixels], settings: GenerationSettings
) -> dict[str, Timings]:
    """Let the variants take turns on every batch, in a new order each time."""
    tokens: dict[str, list[TokenIds]] = {variant.name: [] for variant in variants}

    def caption(variant: Variant, turn: int) -> float:
        batch = batches[(turn - WARM_UP_ROUNDS) % len(batches)]
        written = variant.generate(batch, settings)
        if turn >= WARM_UP_ROUNDS:
            tokens[variant.name].extend(written)
        return len(batch)

    calls = {variant.name: partial(caption, variant) for variant in variants}
    taken = take_turns(calls, len(batches), WARM_UP_ROUNDS)
    return {name: Timings(samples, tokens[name]) for name, samples in taken.items()}


def rows_of(
    variants: Sequence[Variant], timings: dict[str, Timings], settings: GenerationSettings, batch_size: int
) -> list[dict[str, Any]]:
    """One record for each variant of a case; times are for one photo."""
    rows = []
    for variant in variants:
        mine = timings[variant.name]
        others = {name: other for name, other in timings.items() if name != variant.name}
        rows.append(
            {
                "variant": variant.name,
                "num_beams": settings.num_beams,
                "batch_size": batch_size,
                "wall_ms": summarize([sample.wall_ms for sample in mine.samples]),
                "cpu_ms": summarize([sample.cpu_ms for sample in mine.samples]),
                "tokens_per_caption": round(statistics.fmean(map(len, mine.tokens)), 2),
                "size_bytes": variant.size_bytes,
                "times_as_fast_as": {
                    name: paired_ratio(other.samples, mine.samples) for name, other in others.items()
                },
                "same_captions_as": {
                    name: agreement(other.tokens, mine.tokens) for name, other in others.items()
                },
            }
        )
    return rows


def agreement(theirs: Sequence[TokenIds], mine: Sequence[TokenIds]) -> float:
    """The share of captions that are equal, token by token."""
    return round(statistics.fmean(a == b for a, b in zip(theirs, mine, strict=True)), 3)


def show(row: dict[str, Any]) -> None:
    """Print one record on one line."""
    ratios = ", ".join(f"{value:.2f}x {name}" for name, value in row["times_as_fast_as"].items())
    wall = row["wall_ms"]
    click.echo(
        f"batch {row['batch_size']}  beams {row['num_beams']}  {row['variant']:18} "
        f"{wall['median']:8.2f} ms  p95 {wall['p95']:8.2f} ms  {ratios}"
    )


@click.command()
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="The quantized one; by default the one that ships."
)
@click.option(
    "--fp32-bundle", type=click.Path(path_type=Path), help="By default exported from the checkpoint."
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="For torch; by default the repository's.")
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=40, show_default=True, help="Calls of each variant in each case.")
@click.option("--batch-size", "batch_sizes", multiple=True, type=int, default=(1, 8), show_default=True)
@click.option("--num-beams", "beams", multiple=True, type=int, default=(1, 3), show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    bundle: Path | None,
    fp32_bundle: Path | None,
    checkpoint: Path | None,
    threads: int,
    rounds: int,
    batch_sizes: tuple[int, ...],
    beams: tuple[int, ...],
    output: Path | None,
) -> None:
    """Measure milliseconds for a photo of the int8 bundle, the fp32 bundle and torch eager."""
    pin_to_cpus(threads)
    checkpoint = checkpoint or find_checkpoint()
    fp32_bundle = fp32_bundle or export_fp32(checkpoint)
    bundles = [load_bundle(directory) for directory in (bundle, fp32_bundle)]
    variants = [bundle_variant(item, threads) for item in bundles] + [torch_variant(checkpoint, threads)]
    if len({variant.name for variant in variants}) < len(variants):
        raise click.ClickException("the two bundles have the same precision: there is nothing to compare")
    manifest = bundles[0].manifest
    pixels = [load_image(photo, manifest.image) for photo in sorted(PHOTOS.glob("*.jpg"))]
    rows = []
    for batch_size, num_beams in itertools.product(batch_sizes, beams):
        # Torch eager bans no n-grams, so none are banned in any variant.
        settings = replace(manifest.generation, num_beams=num_beams, no_repeat_ngram_size=0)
        timings = measure(variants, batches_of(pixels, batch_size, rounds), settings)
        rows += rows_of(variants, timings, settings, batch_size)
        for row in rows[-len(variants) :]:
            show(row)
    told = {
        "threads": threads,
        "rounds": rounds,
        "checkpoint": shown_path(checkpoint),
        "max_new_tokens": manifest.generation.max_new_tokens,
        "length_penalty": manifest.generation.length_penalty,
        "no_repeat_ngram_size": 0,
    }
    click.echo(f"wrote {write_result('speed', told, rows, output)}", err=True)


if __name__ == "__main__":
    main()
