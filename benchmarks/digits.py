"""The reading task: how many grids of unseen handwritten digits are read without a mistake, int8 beside fp32.

docs/TRAINING.md says how to make the data set and the bundles.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import shown_path, write_result
from kiloword.runtime.captioner import Captioner
from kiloword.train.datasets import CaptionRecord, load_records


def compare(read: Sequence[str], written: Sequence[str]) -> dict[str, float | int]:
    """Grids and digits that are right.

    Args:
        read: what a model reads in each grid, digits with or without spaces.
        written: what is written there.

    Returns:
        How many grids there are, the percentages of grids and of digits that are right, and how many readings
        have too many or too few digits; such a reading has no digit right.
    """
    pairs = [(one.replace(" ", ""), other.replace(" ", "")) for one, other in zip(read, written, strict=True)]
    right = sum(
        sum(a == b for a, b in zip(one, other, strict=True)) for one, other in pairs if len(one) == len(other)
    )
    return {
        "grids": len(pairs),
        "exact_percent": round(100 * sum(one == other for one, other in pairs) / len(pairs), 2),
        "digit_percent": round(100 * right / sum(len(other) for _, other in pairs), 3),
        "wrong_length": sum(len(one) != len(other) for one, other in pairs),
    }


def measure(captioner: Captioner, records: Sequence[CaptionRecord], num_beams: int) -> dict[str, Any]:
    """Read every grid with one bundle."""
    started = time.perf_counter()
    photos = [record.image for record in records]
    read = [caption.text for caption in captioner.caption_many(photos, num_beams=num_beams)]
    seconds = time.perf_counter() - started
    return {
        "bundle_directory": shown_path(captioner.bundle.directory),
        "precision": captioner.bundle.manifest.precision,
        "num_beams": num_beams,
        **compare(read, [record.captions[0] for record in records]),
        "ms_per_photo": round(1000 * seconds / len(records), 2),
    }


@click.command()
@click.option("--bundle", "bundles", multiple=True, required=True, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), default=Path("digits"), show_default=True)
@click.option("--split", default="test", show_default=True)
@click.option("--num-beams", type=int, default=1, show_default=True)
@click.option("--threads", type=int, help="All that this process may use by default.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    bundles: tuple[Path, ...],
    data: Path,
    split: str,
    num_beams: int,
    threads: int | None,
    output: Path | None,
) -> None:
    """Count the grids that bundles read without a mistake."""
    records = load_records(data, split).records
    rows = [measure(Captioner.load(bundle, threads=threads), records, num_beams) for bundle in bundles]
    for row in rows:
        click.echo(
            f"{row['precision']:5} {row['exact_percent']:6.2f} % of {row['grids']} grids exactly right, "
            f"{row['digit_percent']:.3f} % of the digits, {row['ms_per_photo']:.1f} ms a grid"
        )
    settings = {"data": shown_path(data), "split": split, "threads": threads}
    click.echo(f"wrote {write_result('digits', settings, rows, output)}", err=True)


if __name__ == "__main__":
    main()
