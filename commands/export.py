"""`kiloword export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kiloword.commands.common import (
    PROVIDERS,
    as_written,
    log_at_least_info,
    needs_extra,
    verbose_option,
)
from kiloword.commands.quantizing import RECIPES_HELP, QuantizeCommand, quantize_options, read_quantizing


@click.command(
    cls=QuantizeCommand,
    epilog=as_written(
        *RECIPES_HELP,
        "Examples:",
        "  kiloword export runs/mine --quantize -o bundles/mine",
        "  kiloword export runs/mine --quantize dynamic --force",
        "  kiloword export bundles/mine/fp32 --quantize --for speed --evaluate flickr8k/ -o bundles/fast",
        "  kiloword export bundles/mine/int8 --single-graph -o bundles/mine",
    ),
)
@click.argument("source", required=False, type=click.Path(), metavar="[CHECKPOINT]")
@quantize_options
@click.option(
    "--precision", type=click.Choice(("fp32", "fp16")), default="fp32", show_default=True,
    help="fp16: make a bundle of half the size, for GPUs, beside the fp32 one.",
)  # fmt: skip
@click.option(
    "--plain-attention", is_flag=True,
    help="Write attention out as products and a softmax, for runtimes without the operator (OpenVINO).",
)  # fmt: skip
@click.option(
    "--single-graph", is_flag=True,
    help="Make of each bundle one graph, pixels to token ids with the search inside, for other languages.",
)  # fmt: skip
@click.option(
    "--num-beams", type=click.IntRange(min=1), metavar="N",
    help="Beams of the single graph; 1 is greedy.  [default: the bundle's]",
)  # fmt: skip
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), metavar="N",
    help="Most tokens that the single graph writes.  [default: the bundle's]",
)  # fmt: skip
@click.option(
    "--check-on", multiple=True, type=click.Choice(PROVIDERS[1:]), metavar="PROVIDER",
    help="Each bundle must say the same on this execution provider as on the processor; it then names it.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(file_okay=False), metavar="DIR", default="outputs/export",
    show_default=True, help="Where the bundles go: DIR/fp32, DIR/int8, DIR/fp16, DIR/fp32-single-graph, ...",
)  # fmt: skip
@verbose_option
def export(
    source: str | None,
    precision: str,
    plain_attention: bool,
    single_graph: bool,
    num_beams: int | None,
    max_new_tokens: int | None,
    check_on: tuple[str, ...],
    output: str,
    **quantizing: Any,
) -> None:
    """Export a checkpoint to ONNX bundles.

    What was exported is checked against torch first, and int8 against fp32. CHECKPOINT is a run, a
    checkpoint or an fp32 bundle. Without it, the newest run is exported, else the checkpoint that the
    repository carries.
    """
    if not single_graph and (num_beams is not None or max_new_tokens is not None):
        raise click.UsageError("--num-beams and --max-new-tokens are for --single-graph.")
    log_at_least_info()
    with needs_extra("export"):
        from kiloword.export.export import export_bundle
        from kiloword.export.single_graph import SearchOverrides

        bundles = export_bundle(
            None if source is None else Path(source),
            Path(output),
            **read_quantizing(**quantizing),
            half=precision == "fp16",
            plain_attention=plain_attention,
            single_graph=SearchOverrides(num_beams, max_new_tokens) if single_graph else None,
            check_on=check_on,
        )
    for bundle in bundles:
        click.echo(bundle)
