"""Does a photo take longer among many, or a word late in a caption?

    python -m benchmarks.growth DIR

A folder with a journal of none, 1,000, 10,000 and 100,000 photos that are done gets some new ones, and the
same command runs again: what the new ones take apart from the walk over the others must not depend on how
many those are. And the decoder reads one token after 1, 2, ... others, as far as the bundle's places go.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.folder import caption_folder, journal_folder, output_beside
from benchmarks.folder_photos import SIZE_SMALL, make_photos
from benchmarks.machine import pin_to_cpus, write_result
from kiloword.runtime.bench.pictures import pixels_of
from kiloword.runtime.bench.steps import decoder_feeds
from kiloword.runtime.bench.timing import summarize, take_turns
from kiloword.runtime.bundle import Bundle, load_bundle
from kiloword.runtime.manifest import PAST_LENGTH_AXIS
from kiloword.runtime.sessions import load_sessions

NEW_PHOTOS = 400


def folder_row(folder: Path, known: int, bundle: Path | None) -> dict[str, Any]:
    """What new photos take among known ones."""
    make_photos(folder, known or 1, SIZE_SMALL)
    output = output_beside(folder)
    journal_folder(folder, output, bundle)
    caption_folder(folder, output, bundle)
    walk = statistics.median(caption_folder(folder, output, bundle).wall_s for _ in range(3))
    make_photos(folder, (known or 1) + NEW_PHOTOS, SIZE_SMALL)
    whole = caption_folder(folder, output, bundle)
    return {
        "measurement": "folder",
        "known": known,
        "new": NEW_PHOTOS,
        "walk_s": round(walk, 3),
        "ms_per_new_photo": round(1e3 * (whole.wall_s - walk) / NEW_PHOTOS, 3),
        "peak_rss_bytes": max(whole.rss_bytes),
    }


def token_rows(bundle: Bundle, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a step by how many tokens were read before."""
    sessions = load_sessions(bundle, "cpu", 1)
    pixels = pixels_of((), bundle.manifest.image)[0]
    generation = bundle.manifest.generation
    (feeds, *_) = decoder_feeds(bundle, sessions.decoder, sessions.encoder.encode(pixels[None]), generation)
    most = min(64, (bundle.manifest.tokens.max_sequence_length or 65) - 1)
    caches = bundle.manifest.decoder.inputs_of("cache")
    random = np.random.default_rng(0)
    session = sessions.decoder._session

    def with_past(length: int) -> dict[str, Any]:
        shapes = {
            tensor.name: [1, *(length if axis == PAST_LENGTH_AXIS else axis for axis in tensor.axes[1:])]
            for tensor in caches
        }
        past = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
        return {**feeds, **past}

    given = {length: with_past(length) for length in range(0, most + 1, max(1, most // 8))}
    runs = {
        length: lambda _turn, inputs=inputs: session.run(None, inputs) and None
        for length, inputs in given.items()
    }
    taken = take_turns(runs, rounds)
    return [
        {"measurement": "token", "tokens_before": length, "ms": summarize(samples).median}
        for length, samples in taken.items()
    ]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--most", default=100_000, show_default=True, help="The largest folder.")
@click.option("--rounds", default=60, show_default=True, help="Steps of each length.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle other than the one that ships.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(folder: Path, most: int, rounds: int, bundle: Path | None, output: Path | None) -> None:
    """Measure growth; small photos are made in DIR."""
    rows = [
        folder_row(folder / f"{known}", known, bundle)
        for known in (0, 1000, 10_000, 100_000)
        if known <= most
    ]
    pin_to_cpus(1)
    rows += token_rows(load_bundle(bundle), rounds)
    for row in rows:
        click.echo("  ".join(f"{name} {value}" for name, value in row.items()))
    click.echo(f"wrote {write_result('growth', {'most': most, 'rounds': rounds}, rows, output)}", err=True)


if __name__ == "__main__":
    main()
