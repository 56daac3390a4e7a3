"""`kiloword train`."""

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
        "  kiloword train train/recipes/tiny.toml -o runs/tiny",
        "  kiloword train mine.toml --set optimizer.rate=4e-4 --resume",
    )
)
@click.argument("recipe", type=click.Path(), metavar="RECIPE.toml")
@overrides_option
@click.option("--resume", is_flag=True, help="Go on where the last run in the output folder stopped.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="The run's folder.  [default: runs/NAME]",
)
@verbose_option
def train(recipe: str, overrides: tuple[str, ...], resume: bool, output: str | None) -> None:
    """Train a captioner by a recipe."""
    log_at_least_info()
    with needs_extra("train"):
        from kiloword.train.recipe_file import load_recipe

        plan = load_recipe(recipe, overrides)  # a mistake in it is said before torch's seconds of import
        from kiloword.train.loop import train as run_training

        checkpoint = run_training(plan, Path(output or f"runs/{plan.name}"), resume=resume)
    click.echo(checkpoint)
