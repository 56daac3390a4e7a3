"""`kiloword inspect`."""

from __future__ import annotations

import click

from kiloword.commands.common import (
    as_json_text,
    as_written,
    echo,
    verbose_option,
)


@click.command(
    epilog=as_written(
        "Example:",
        "  kiloword inspect bundles/mine --json",
    )
)
@click.argument("bundle", required=False, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="The manifest as JSON.")
@verbose_option
def inspect(bundle: str | None, as_json: bool) -> None:
    """Check a bundle and show what it is.

    Shown are the model, its graphs, where it comes from and how good it is. BUNDLE is a directory; without
    it, the bundle in the package is shown.
    """
    from dataclasses import asdict

    from kiloword.runtime.bundle import load_bundle
    from kiloword.runtime.describe import describe_bundle

    checked = load_bundle(bundle)
    echo(as_json_text(asdict(checked.manifest)) if as_json else describe_bundle(checked))
