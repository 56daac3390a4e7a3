"""`kiloword explain`."""

from __future__ import annotations

from pathlib import Path

import click

from kiloword.commands.common import as_written, bundle_options, needs_extra, verbose_option


@click.command(
    epilog=as_written(
        "Examples:",
        "  kiloword explain dog.jpg -o dog.png",
        "  kiloword explain dog.jpg -o dog.html --num-beams 1",
        "  kiloword explain dog.jpg -o last.png --layers 1",
        "  kiloword explain dog.jpg -o encoder.png --rollout checkpoints/kiloword-tiny",
    )
)
@click.argument("photo", type=click.Path(), metavar="PHOTO")
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False), metavar="FILE",
    help="What to draw: a picture (.png, .jpg, .webp), or a page (.html) where a word shows its map.",
)  # fmt: skip
@click.option(
    "--rollout", type=click.Path(), metavar="CHECKPOINT",
    help="Draw instead what a checkpoint's ViT encoder saw, by attention rollout (needs the extra train).",
)  # fmt: skip
@click.option(
    "--layers", metavar="N,N,...", help="Only these layers of the decoder, counted from 0.  [default: all]"
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), metavar="N", help="Longest caption, in tokens.")
@bundle_options
@verbose_option
def explain(
    photo: str,
    output: str,
    rollout: str | None,
    layers: str | None,
    max_new_tokens: int | None,
    bundle: str | None,
    num_beams: int | None,
    provider: str,
    threads: int | None,
) -> None:
    """Show where the model looked for each word.

    The photo is drawn once for each word of its caption, lit where the decoder looked when it wrote the word:
    cross-attention, mean over heads and layers, all of them or those of --layers. How far to trust such
    pictures: docs/EXPLAIN.md.
    """
    from kiloword.runtime.explain import SUFFIXES, write_explanation

    if Path(output).suffix.lower() not in SUFFIXES:
        raise click.BadParameter(f"expected a name that ends in {', '.join(SUFFIXES)}", param_hint="-o")
    chosen = None if layers is None else read_layers(layers)
    if rollout is not None:
        with needs_extra("train"):
            from kiloword.train.rollout import explain_encoder

            found = explain_encoder(Path(rollout), photo)
    else:
        from kiloword.runtime.captioner import Captioner
        from kiloword.runtime.explain import explain as explain_photo

        captioner = Captioner.load(bundle, provider=provider, threads=threads)
        found = explain_photo(
            captioner, photo, num_beams=num_beams, max_new_tokens=max_new_tokens, layers=chosen
        )
    write_explanation(found, Path(output))
    click.echo(output)


def read_layers(text: str) -> list[int]:
    """Numbers between commas."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"expected numbers with commas, found {text!r}", param_hint="--layers"
        ) from None
