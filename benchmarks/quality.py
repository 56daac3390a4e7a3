"""BLEU, ROUGE-L and CIDEr-D of bundles on real photos, greedy and with beams, int8 beside fp32.

Data sets are not part of the repository; docs/TRAINING.md says where they come from. Flickr8k's test part and
COCO's validation captions are never trained on or tuned on. With the reference tokenizer (`java`, the
default) the numbers compare with those in papers.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.checkpoints import export_fp32, find_checkpoint
from benchmarks.machine import REPOSITORY, shown_path, write_result
from kiloword.runtime.bundle import DEFAULT_BUNDLE
from kiloword.runtime.captioner import Captioner
from kiloword.train.datasets import CaptionRecord, load_records
from kiloword.train.evaluation import evaluate

DATA = Path(os.environ.get("KILOWORD_DATA", REPOSITORY.parent / "shared" / "data"))


@dataclass(frozen=True)
class DataSet:
    """Where in the data folder a data set's captions are."""

    source: str
    """Its folder or annotation file."""
    split: str | None
    """The part to caption; None for all."""


DATA_SETS = {
    "flickr8k-test": DataSet("flickr8k", "test"),
    "flickr8k-dev": DataSet("flickr8k", "dev"),
    "coco-dev": DataSet("coco/captions_dev.json", None),
}


def measure(
    name: str, records: Sequence[CaptionRecord], captioner: Captioner, num_beams: int, tokenizer: Any
) -> dict[str, Any]:
    """Caption one data set with one bundle and one number of beams; a record without the photos' rows."""
    report = evaluate(captioner, records, num_beams=num_beams, tokenizer=tokenizer).as_dict()
    del report["photos"], report["failures"], report["provider"]
    report["metrics"] = {key: _rounded(value) for key, value in report["metrics"].items()}
    report["ms_per_photo"] = _rounded(report["ms_per_photo"])
    return {"dataset": name, "bundle_directory": shown_path(captioner.bundle.directory), **report}


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def against_fp32(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say in every record that has an fp32 twin how many points of CIDEr-D it is above that twin."""
    twins = {_case(row): row["metrics"]["cider"] for row in rows if row["precision"] == "fp32"}
    return [
        {**row, "cider_above_fp32": round(row["metrics"]["cider"] - twins[_case(row)], 3)}
        if row["precision"] != "fp32" and _case(row) in twins
        else row
        for row in rows
    ]


def _case(row: dict[str, Any]) -> tuple[str, int]:
    return row["dataset"], row["decode"]["num_beams"]


def show(row: dict[str, Any]) -> None:
    """Print one record on one line."""
    metrics = row["metrics"]
    click.echo(
        f"{row['dataset']:14} {row['precision']:5} beams {row['decode']['num_beams']}  "
        f"BLEU-4 {metrics['bleu_4']:5.2f}  ROUGE-L {metrics['rouge_l']:5.2f}  CIDEr {metrics['cider']:6.2f}  "
        f"{row['ms_per_photo']:6.1f} ms"
    )


@click.command()
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    type=click.Path(path_type=Path),
    help="By default the one that ships, and an fp32 one exported from the repository's checkpoint.",
)
@click.option(
    "--dataset",
    "names",
    multiple=True,
    type=click.Choice(tuple(DATA_SETS)),
    default=("flickr8k-test", "coco-dev"),
    show_default=True,
)
@click.option(
    "--data", type=click.Path(path_type=Path), default=DATA, help="Folder with flickr8k/ and coco/."
)
@click.option("--num-beams", "beams", multiple=True, type=int, default=(1, 3), show_default=True)
@click.option("--tokenizer", type=click.Choice(("java", "own")), default="java", show_default=True)
@click.option("--threads", type=int, help="All that this process may use by default.")
@click.option("--limit", type=int, help="Only the first photos, to try something out.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    bundles: tuple[Path, ...],
    names: tuple[str, ...],
    data: Path,
    beams: tuple[int, ...],
    tokenizer: str,
    threads: int | None,
    limit: int | None,
    output: Path | None,
) -> None:
    """Score bundles on data sets that they never learned from."""
    directories = bundles or (DEFAULT_BUNDLE, export_fp32(find_checkpoint()))
    captioners = [Captioner.load(directory, threads=threads) for directory in directories]
    rows = []
    for name in names:
        records = load_records(data / DATA_SETS[name].source, DATA_SETS[name].split).records[:limit]
        for num_beams, captioner in itertools.product(beams, captioners):
            rows.append(measure(name, records, captioner, num_beams, tokenizer))
            show(rows[-1])
    settings = {"threads": threads, "limit": limit, "tokenizer": tokenizer}
    click.echo(f"wrote {write_result('quality', settings, against_fp32(rows), output)}", err=True)


if __name__ == "__main__":
    main()
