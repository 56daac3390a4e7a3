"""Does a photo take longer among many, or a word late in a caption?

    python -m benchmarks.growth DIR

A folder with a journal of none, 1,000, 10,000 and 100,000 photos that are done gets some new ones, and the
same command runs again: what the new ones take apart from the walk over the others must not depend on how
many those are. And the decoder reads one token after 1, 2, ... others, as far as the bundle's places go.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.folder import journal_folder, output_beside
from benchmarks.folder_photos import SIZE_SMALL, make_photos
from benchmarks.machine import REPOSITORY, pin_to_cpus, write_result
from kiloword.runtime.bench.pictures import pixels_of
from kiloword.runtime.bench.steps import decoder_feeds
from kiloword.runtime.bench.timing import summarize, take_turns
from kiloword.runtime.bundle import Bundle, load_bundle
from kiloword.runtime.manifest import PAST_LENGTH_AXIS
from kiloword.runtime.sessions import load_sessions

NEW_PHOTOS = 150
FOLDER_ROUNDS = 4


def folder_rows(root: Path, sizes: Sequence[int], bundle: Path | None, rounds: int) -> list[dict[str, Any]]:
    """What new photos take in folders of several sizes, in turns: some more in each round."""
    outputs = {known: _prepare(root / f"{known}", known, bundle) for known in sizes}
    walks: dict[int, list[float]] = {known: [] for known in sizes}
    news: dict[int, list[float]] = {known: [] for known in sizes}
    for turn in range(rounds):
        for known, output in outputs.items():
            folder = root / f"{known}"
            walk = _seconds(folder, output, bundle)
            make_photos(folder, max(known, 1) + (turn + 1) * NEW_PHOTOS, SIZE_SMALL)
            whole = _seconds(folder, output, bundle)
            walks[known].append(walk)
            news[known].append(1e3 * (whole - walk) / NEW_PHOTOS)
    return [
        {
            "measurement": "folder",
            "known": known,
            "new": NEW_PHOTOS,
            "walk_s": round(statistics.median(walks[known]), 3),
            "ms_per_new_photo": round(statistics.median(news[known]), 3),
            "all_ms_per_new_photo": [round(ms, 2) for ms in news[known]],
        }
        for known in sizes
    ]


def _prepare(folder: Path, known: int, bundle: Path | None) -> Path:
    """A folder whose photos are all done; returns where their captions are."""
    make_photos(folder, max(known, 1), SIZE_SMALL)
    output = output_beside(folder)
    journal_folder(folder, output, bundle)
    _seconds(folder, output, bundle)
    return output


def _seconds(folder: Path, output: Path, bundle: Path | None) -> float:
    """What `kiloword caption FOLDER -o OUTPUT` takes, its start included."""
    option = [] if bundle is None else ["--bundle", str(bundle)]
    command = [sys.executable, str(REPOSITORY / "cli.py"), "caption", str(folder), "-o", str(output), *option]
    began = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


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
            tensor.name: [1, *(length if axis == PAST_LENGTH_AXIS else int(axis) for axis in tensor.axes[1:])]
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
    sizes = [known for known in (0, 1000, 10_000, 100_000) if known <= most]
    rows = folder_rows(folder, sizes, bundle, FOLDER_ROUNDS)
    pin_to_cpus(1)
    rows += token_rows(load_bundle(bundle), rounds)
    for row in rows:
        click.echo("  ".join(f"{name} {value}" for name, value in row.items()))
    click.echo(f"wrote {write_result('growth', {'most': most, 'rounds': rounds}, rows, output)}", err=True)


if __name__ == "__main__":
    main()
