"""What one photo costs one core: processor time to decode it, small and large, and to caption it.

    python -m benchmarks.photo_costs DIR

Processor time of one thread, so a machine that does other things, too, hardly changes it. docs/scaling.py
computes the tables of docs/SCALING.md from it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.folder_photos import SIZE_12_MP, make_photos
from benchmarks.machine import pin_to_cpus, write_result
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.folders import expand_paths
from kiloword.runtime.reading import read_photo

SIZES = {"small": (640, 480), "large": SIZE_12_MP}
BATCH_SIZE = 8


def cpu_ms(work: Callable[[], object], photos: int, rounds: int) -> float:
    """Median over some rounds of the processor time for each photo, after one that does not count."""
    work()
    samples = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        samples.append(1e3 * (time.process_time() - began) / photos)
    return round(statistics.median(samples), 2)


def decode_row(folder: Path, name: str, captioner: Captioner, photos: int, rounds: int) -> dict[str, Any]:
    """Reading, hashing, decoding and shrinking photos of one size, as the pipeline does it."""
    # In another process: it takes more memory than all that is measured.
    maker = get_context("spawn").Process(target=make_photos, args=(folder / name, photos, SIZES[name]))
    maker.start()
    maker.join()
    paths = [str(path) for path in expand_paths([str(folder / name)])][:photos]
    spec = captioner.bundle.manifest.image

    def decode() -> None:
        for path in paths:
            read_photo(path).decode(spec)

    width, height = SIZES[name]
    return {
        "measurement": "decode",
        "photos": name,
        "width": width,
        "height": height,
        "bytes": sum(map(os.path.getsize, paths)) // len(paths),
        "cpu_ms": cpu_ms(decode, len(paths), rounds),
    }


def caption_row(folder: Path, captioner: Captioner, num_beams: int | None, rounds: int) -> dict[str, Any]:
    """Captioning a batch of different photos; None: as many beams as the bundle says."""
    paths = [str(path) for path in expand_paths([str(folder / "small")])][:BATCH_SIZE]
    spec = captioner.bundle.manifest.image
    pixels = np.stack([read_photo(path).decode(spec).pixels for path in paths])
    beams = num_beams or captioner.bundle.manifest.generation.num_beams
    work = lambda: captioner.caption_pixels(pixels, num_beams=beams)  # noqa: E731
    return {
        "measurement": "caption",
        "search": "default" if num_beams is None else "greedy",
        "num_beams": beams,
        "batch_size": len(paths),
        "cpu_ms": cpu_ms(work, len(paths), rounds),
    }


def memory_row() -> dict[str, Any]:
    """The most memory that this process has held."""
    import resource

    return {
        "measurement": "memory",
        "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--photos", default=16, show_default=True, help="Photos of each size; made where missing.")
@click.option("--rounds", default=5, show_default=True, help="How often each measurement.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle other than the one that ships.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(folder: Path, photos: int, rounds: int, bundle: Path | None, output: Path | None) -> None:
    """Measure with one thread; photos are made in FOLDER."""
    pin_to_cpus(1)
    captioner = Captioner.load(bundle, provider="cpu", threads=1)
    rows = [decode_row(folder, name, captioner, photos, rounds) for name in SIZES]
    rows += [caption_row(folder, captioner, beams, rounds) for beams in (None, 1)]
    rows.append(memory_row())
    for row in rows:
        click.echo("  ".join(f"{name} {value}" for name, value in row.items()))
    manifest = captioner.bundle.manifest
    facts: dict[str, Any] = {"bundle": manifest.name, "precision": manifest.precision}
    facts["bundle_bytes"] = sum(record.bytes for record in manifest.files.values())
    settings = {"photos": photos, "rounds": rounds, **facts}
    click.echo(f"wrote {write_result('photo_costs', settings, rows, output)}", err=True)


if __name__ == "__main__":
    main()
