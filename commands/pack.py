"""`kiloword pack`."""

from __future__ import annotations

from pathlib import Path

import click

from kiloword.commands.common import (
    as_written,
    log_at_least_info,
    needs_extra,
    overrides_option,
    verbose_option,
)


@click.command(
    epilog=as_written(
        "Examples:",
        "  kiloword pack gpu --set data.root=/data -o packed",
        "  kiloword train gpu --set data.root=packed -o runs/gpu",
    )
)
@click.argument("recipe", type=click.Path(), metavar="RECIPE.toml")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="A new folder, the data.root of the training that follows.",
)
@overrides_option
@click.option(
    "--part-mib",
    type=click.IntRange(1),
    default=60,
    show_default=True,
    help="Largest file of photos, in MiB.",
)
@verbose_option
def pack(recipe: str, output: Path, overrides: tuple[str, ...], part_mib: int) -> None:
    """Pack a recipe's photos and captions into a few files, for a training on another machine.

    The photos have the size that the encoder sees. The same recipe trains on the folder.
    """
    log_at_least_info()
    with needs_extra("train"):
        from kiloword.train.recipe_file import load_recipe

        plan = load_recipe(recipe, overrides)
        from kiloword.train.packed import pack as write_packed
        from kiloword.train.progress import Progress

        write_packed(plan, output, part_bytes=part_mib * 2**20, progress=Progress().count)
    click.echo(output)
