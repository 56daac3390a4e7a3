"""`kiloword import`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kiloword.commands.common import as_written, log_at_least_info, needs_extra, verbose_option
from kiloword.commands.quantizing import RECIPES_HELP, QuantizeCommand, quantize_options, read_quantizing

# Written out here because their home imports torch; a test compares the two.
STYLES = ("short", "detailed", "very-detailed")


@click.command(
    cls=QuantizeCommand,
    name="import",
    epilog=as_written(
        *RECIPES_HELP,
        "Examples:",
        "  kiloword import ~/checkpoints/vit-gpt2 --quantize -o bundles/vit-gpt2",
        "  kiloword import florence-community/Florence-2-base --style detailed -o bundles/florence",
    ),
)
@click.argument("checkpoint")
@quantize_options
@click.option("--style", type=click.Choice(STYLES), help="Florence-2 only: which captions.  [default: short]")
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), metavar="N",
    help="Most tokens in a caption.  [default: as the checkpoint says]",
)  # fmt: skip
@click.option(
    "--allow-pickle", is_flag=True,
    help="Load weights from a pickle (.bin) where there are no safetensors; tensors alone are loaded.",
)  # fmt: skip
@click.option(
    "--pictures", type=click.IntRange(min=1), metavar="N", default=32, show_default=True,
    help="Random pictures on which the bundle must write what transformers writes.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(file_okay=False), metavar="DIR", default="outputs/import",
    show_default=True, help="Where the bundles go: DIR/fp32, DIR/int8.",
)  # fmt: skip
@verbose_option
def import_(
    checkpoint: str,
    style: str | None,
    max_new_tokens: int | None,
    allow_pickle: bool,
    pictures: int,
    output: str,
    **quantizing: Any,
) -> None:
    """Import a captioner of Hugging Face transformers.

    CHECKPOINT is a directory, or a hub id where there is a network: VisionEncoderDecoderModel (ViT, DeiT,
    BEiT, Swin; GPT-2, BERT, RoBERTa), BLIP, GIT or Florence-2. The bundle is written only if it writes the
    same token ids as transformers, greedily and with four beams.
    """
    log_at_least_info()
    with needs_extra("export"):
        from kiloword.export.importing.bundle import Options, import_bundle

        options = Options(
            **read_quantizing(**quantizing),
            style=style,
            allow_pickle=allow_pickle,
            max_new_tokens=max_new_tokens,
            pictures=pictures,
        )
        bundles = import_bundle(checkpoint, Path(output), options)
    for bundle in bundles:
        click.echo(bundle)
