"""`kiloword export`."""

from __future__ import annotations

from pathlib import Path

import click

from kiloword.commands.common import (
    as_written,
    log_at_least_info,
    needs_extra,
    verbose_option,
)


@click.command(
    epilog=as_written(
        "Example:",
        "  kiloword export runs/mine --quantize -o bundles/mine",
    )
)
@click.argument("checkpoint", required=False, type=click.Path())
@click.option("--quantize", is_flag=True, help="Make an int8 bundle beside the fp32 one.")
@click.option(
    "--calibration", type=click.Path(), metavar="DIR",
    help="Photos to measure the ranges of int8 on.  [default: the training photos, else the examples]",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(file_okay=False), metavar="DIR", default="outputs/export",
    show_default=True, help="Where the bundles go: DIR/fp32, DIR/int8.",
)  # fmt: skip
@verbose_option
def export(checkpoint: str | None, quantize: bool, calibration: str | None, output: str) -> None:
    """Export a checkpoint to ONNX bundles.

    What was exported is checked against torch first. Without CHECKPOINT, the newest run is exported, else
    the checkpoint that the repository carries.
    """
    log_at_least_info()
    with needs_extra("export"):
        from kiloword.export.export import export_bundle

        bundles = export_bundle(
            None if checkpoint is None else Path(checkpoint),
            Path(output),
            quantize=quantize,
            calibration=None if calibration is None else Path(calibration),
        )
    for bundle in bundles:
        click.echo(bundle)
