"""The checkpoint that the shipped bundle was made from, and the fp32 bundle that int8 is compared with."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.machine import REPOSITORY

CHECKPOINTS = REPOSITORY / "checkpoints"
EXPORTS = REPOSITORY / "build" / "benchmarks"


def find_checkpoint() -> Path:
    """The checkpoint that the repository carries.

    Raises:
        click.ClickException: There is none, or more than one.
    """
    found = sorted(path.parent for path in CHECKPOINTS.glob("**/checkpoint.json"))
    if len(found) != 1:
        raise click.ClickException(
            f"{CHECKPOINTS}: expected one checkpoint, found {len(found)}; name one with --checkpoint"
        )
    return found[0]


def export_fp32(checkpoint: Path) -> Path:
    """Export a checkpoint as an fp32 bundle, anew each time: an older one may come from other code."""
    from kiloword.export.export import export_bundle

    (bundle,) = export_bundle(checkpoint, EXPORTS)
    return bundle
