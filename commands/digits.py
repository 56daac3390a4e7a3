"""`kiloword digits`."""

from __future__ import annotations

from pathlib import Path

import click

from kiloword.commands.common import as_written, verbose_option


@click.command(
    epilog=as_written(
        "Examples:",
        "  kiloword digits -o digits",
        "  kiloword digits -o mnist-grids --from ~/mnist --rows 4 --columns 4",
    )
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The data set's folder: images/ and captions.jsonl.",
)
@click.option(
    "--from", "source", default="sklearn", show_default=True, metavar="sklearn|DIR",
    help="scikit-learn's bundled digits, or a folder with MNIST's four IDX files, packed or not.",
)  # fmt: skip
@click.option("--rows", type=click.IntRange(1, 20), default=3, show_default=True, help="Of a grid.")
@click.option("--columns", type=click.IntRange(1, 20), default=3, show_default=True, help="Of a grid.")
@click.option("--train", type=click.IntRange(0), default=6000, show_default=True, help="Grids to learn from.")
@click.option("--dev", type=click.IntRange(0), default=300, show_default=True, help="Grids to validate on.")
@click.option("--test", type=click.IntRange(0), default=1000, show_default=True, help="Grids to judge by.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of everything random.")
@verbose_option
def digits(
    output: Path, source: str, rows: int, columns: int, train: int, dev: int, test: int, seed: int
) -> None:
    """Draw grids of handwritten digits: the data of the reading task.

    The caption of a picture is its digits, row by row. Single digits are dealt to train, dev and test before
    anything is drawn, so that no digit of a dev or test grid is ever learned from. The recipe `digits` trains
    on the folder.
    """
    from kiloword.train.digits import GridStyle, load_digits, write_grids

    counts = {"train": train, "dev": dev, "test": test}
    write_grids(output, load_digits(source), counts, GridStyle(rows, columns), seed)
    click.echo(output)
