"""`kiloword draft`."""

from __future__ import annotations

from pathlib import Path

import click

from kiloword.commands.common import (
    as_written,
    echo,
    log_at_least_info,
    provider_option,
    threads_option,
    verbose_option,
)


@click.command(
    epilog=as_written(
        "Some thousand photos are best, of the kind that the bundle will see; a few dozen already help.",
        "",
        "Examples:",
        "  kiloword draft bundles/mine holidays/",
        "  find . -name '*.png' | kiloword draft bundles/mine -",
    )
)
@click.argument("bundle", type=click.Path())
@click.argument("paths", nargs=-1, required=True)
@threads_option
@provider_option
@verbose_option
def draft(bundle: str, paths: tuple[str, ...], threads: int | None, provider: str) -> None:
    """Teach a bundle to guess its own next words.

    Captions the photos of PATHS greedily and counts which word follows which. With that, a greedy caption of
    one photo takes fewer steps: the decoder checks several guesses at once and writes what it would have
    written without them. A file joins the bundle, its others stay as they are.
    """
    from kiloword.runtime.draft_fitting import teach_draft
    from kiloword.runtime.folders import expand_paths, raw_stdin

    log_at_least_info()
    photos = expand_paths(paths, raw_stdin() if "-" in paths else None)
    facts = teach_draft(Path(bundle), photos, provider=provider, threads=threads).facts
    echo(
        f"{bundle}: counted on {facts['photos']} photos, {facts['entries']} sequences; on "
        f"{facts['checked_on']} others a step writes {facts['tokens_a_step']:.2f} tokens\n"
    )
