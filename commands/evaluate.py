"""`kiloword evaluate`."""

from __future__ import annotations

import click

from kiloword.commands.common import (
    as_written,
    batch_size_option,
    bundle_options,
    needs_extra,
    open_output,
    output_option,
    verbose_option,
)


@click.command(
    epilog=as_written(
        "Example:",
        "  kiloword evaluate flickr8k/ --bundle bundles/mine --split test --num-beams 3",
    )
)
@click.argument("dataset", type=click.Path())
@click.option("--split", default="test", show_default=True, help="The part to caption; all means everything.")
@click.option(
    "--images", type=click.Path(), metavar="DIR", help="The photos' folder.  [default: the usual ones]"
)
@click.option(
    "--format", "format_name", type=click.Choice(("text", "json")), default="text", show_default=True,
    help="text: the scores; json: all settings and every photo's caption, too.",
)  # fmt: skip
@output_option("Write to this file instead.")
@bundle_options
@batch_size_option
@verbose_option
def evaluate(
    dataset: str,
    split: str,
    images: str | None,
    format_name: str,
    output: str | None,
    bundle: str | None,
    num_beams: int | None,
    provider: str,
    threads: int | None,
    batch_size: int,
) -> None:
    """Caption a data set and score the captions.

    They are compared with what people wrote, by BLEU, ROUGE-L and CIDEr. DATASET is Flickr8k's folder, a
    COCO or Karpathy JSON file, or a folder with a JSONL or CSV file.
    """
    from kiloword.runtime.captioner import Captioner

    with needs_extra("train"):
        from kiloword.train.datasets import load_records
        from kiloword.train.evaluation import evaluate as run_evaluation

        loaded = load_records(dataset, None if split == "all" else split, images=images)
        captioner = Captioner.load(bundle, provider=provider, threads=threads)
        report = run_evaluation(captioner, loaded.records, num_beams=num_beams, batch_size=batch_size)
    with open_output(output) as stream:
        stream.write(report.to_json() if format_name == "json" else str(report))
