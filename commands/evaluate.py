"""`kiloword evaluate`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kiloword.train.comparison import SavedCaptions
    from kiloword.train.datasets import CaptionRecord
    from kiloword.train.evaluation import EvaluationReport


@click.command(
    epilog=as_written(
        "Formats:",
        "  text  the scores, with the range that they would have on other photos of the same kind",
        "  json  all settings and every photo's row, too; what --compare reads",
        "  csv   every photo's row",
        "",
        "Examples:",
        "  kiloword evaluate flickr8k/ --bundle bundles/mine --split test --num-beams 3",
        "  kiloword evaluate flickr8k/ --report outputs/report.html",
        "  kiloword evaluate flickr8k/ --compare bundles/old bundles/mine",
        "  kiloword evaluate --compare old.json mine.json",
    )
)
@click.argument("dataset", type=click.Path(), required=False)
@click.option("--split", default="test", show_default=True, help="The part to caption; all means everything.")
@click.option(
    "--images", type=click.Path(), metavar="DIR", help="The photos' folder.  [default: the usual ones]"
)
@click.option(
    "--format", "format_name", type=click.Choice(("text", "json", "csv")), default="text", show_default=True,
    help="How much is written.",
)  # fmt: skip
@output_option("Write to this file instead.")
@click.option(
    "--report", "page", type=click.Path(dir_okay=False), metavar="FILE",
    help="Also write an HTML page with every photo, the worst first.",
)  # fmt: skip
@click.option(
    "--compare", "pair", type=click.Path(), nargs=2, metavar="A B",
    help="Is B better than A, and by how much? Bundles, or files that --format json wrote.",
)  # fmt: skip
@bundle_options
@batch_size_option
@verbose_option
def evaluate(
    dataset: str | None,
    split: str,
    images: str | None,
    format_name: str,
    output: str | None,
    page: str | None,
    pair: tuple[str, str] | None,
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
    _check_usage(dataset, pair, bundle, page, format_name)
    with needs_extra("train"):
        from kiloword.runtime.captioner import Captioner
        from kiloword.train.comparison import compare
        from kiloword.train.datasets import load_captions, load_records
        from kiloword.train.evaluation import evaluate as run_evaluation
        from kiloword.train.report_page import report_page

        records: Sequence[CaptionRecord] = ()
        training: Sequence[str] | None = None
        if dataset is not None:
            records = load_records(dataset, None if split == "all" else split, images=images).records
            training = load_captions(dataset, "train") if split not in ("all", "train") else None

        def run(directory: str | None) -> EvaluationReport:
            with Captioner.load(directory, provider=provider, threads=threads) as captioner:
                return run_evaluation(
                    captioner,
                    records,
                    num_beams=num_beams,
                    batch_size=batch_size,
                    training_captions=training,
                )

        # Where they cannot be written, that is said before hours of captioning.
        with open_output(output) as stream, nullcontext() if page is None else open_output(page) as html:
            if pair is not None:
                comparison = compare(*(_captions_of(one, run) for one in _checked(pair)))
                stream.write(comparison.to_json() if format_name == "json" else str(comparison))
                return
            report = run(bundle)
            write = {"json": report.to_json, "csv": report.to_csv, "text": report.__str__}[format_name]
            stream.write(write())
            if html is not None:
                html.write(report_page(report))


def _check_usage(
    dataset: str | None, pair: tuple[str, str] | None, bundle: str | None, page: str | None, format_name: str
) -> None:
    if pair is None:
        if dataset is None:
            raise click.UsageError("Missing argument 'DATASET'.")
        return
    if bundle is not None or page is not None or format_name == "csv":
        raise click.UsageError("--compare goes with text or json, and with neither --bundle nor --report.")
    bundles = [one for one in pair if not one.endswith(".json")]
    if bundles and dataset is None:
        raise click.UsageError(f"Missing argument 'DATASET' to caption with {bundles[0]}.")


def _checked(pair: tuple[str, str]) -> tuple[str, str]:
    """Both, once it is sure that none is missing: the first one may take hours."""
    from kiloword.runtime.bundle import read_manifest
    from kiloword.train.comparison import read_captions

    for name in pair:
        read_captions(Path(name)) if name.endswith(".json") else read_manifest(Path(name))
    return pair


def _captions_of(name: str, run: Callable[[str], EvaluationReport]) -> SavedCaptions:
    """Of an evaluation that was saved, or of a bundle that captions the data set now."""
    from kiloword.train.comparison import SavedCaptions, read_captions

    return read_captions(Path(name)) if name.endswith(".json") else SavedCaptions.of(run(name), name)
