"""`kiloword average`."""

from __future__ import annotations

from pathlib import Path

import click

from kiloword.commands.common import as_written, needs_extra


@click.command(
    epilog=as_written(
        "Example:",
        "  kiloword train reward -o runs/a --set seed=1",
        "  kiloword train reward -o runs/b --set seed=2",
        "  kiloword average runs/a/best runs/b/best -o runs/mean",
        "  kiloword export runs/mean --quantize",
    )
)
@click.argument("checkpoints", type=click.Path(), nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("-o", "--output", type=click.Path(), required=True, metavar="DIR", help="Where to write.")
def average(checkpoints: tuple[str, ...], output: str) -> None:
    """Average the weights of runs that differ by their seeds.

    The runs must have begun with the same weights: then their mean often is better than each of them,
    and costs no more than one. Needs the extra `train`.
    """
    with needs_extra("train"):
        from kiloword.train.soup import average_checkpoints

        average_checkpoints([Path(name) for name in checkpoints], Path(output))
    click.echo(output)
