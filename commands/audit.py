"""`kiloword audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kiloword.commands.common import (
    as_written,
    avoid_words_option,
    batch_size_option,
    bundle_options,
    needs_extra,
    open_output,
    output_option,
    prefer_option,
    read_wording,
    verbose_option,
)


@click.command(
    epilog=as_written(
        "Examples:",
        "  kiloword audit flickr8k/ --split test --prefer person --page audit.html",
        "  kiloword audit coco/captions.json --boxes coco/instances.json --format json -o audit.json",
    )
)
@click.argument("dataset", type=click.Path())
@click.option("--split", default="test", show_default=True, help="The part to caption; all means everything.")
@click.option(
    "--images", type=click.Path(), metavar="DIR", help="The photos' folder.  [default: the usual ones]"
)
@click.option(
    "--boxes", type=click.Path(dir_okay=False), metavar="FILE",
    help="Where people are, in COCO's instances layout: also tell how often the attention of a word for "
    "people has its maximum on one.",
)  # fmt: skip
@avoid_words_option
@prefer_option
@click.option(
    "--format", "format_name", type=click.Choice(("text", "json")), default="text", show_default=True,
    help="text: tables; json: every photo, too.",
)  # fmt: skip
@output_option("Write to this file instead.")
@click.option(
    "--page", type=click.Path(dir_okay=False), metavar="FILE",
    help="Also write a page with the photos where captions and references differ.",
)  # fmt: skip
@bundle_options
@batch_size_option
@verbose_option
def audit(
    dataset: str,
    split: str,
    images: str | None,
    boxes: str | None,
    avoid_words: tuple[str, ...],
    prefer: tuple[str, ...],
    format_name: str,
    output: str | None,
    page: str | None,
    bundle: str | None,
    num_beams: int | None,
    provider: str,
    threads: int | None,
    batch_size: int,
) -> None:
    """Compare what captions say of men and women with what people wrote.

    Counts men called women and women called men, how many women are said for each man, and how often captions
    name a gender where the references do not. With --avoid-words or --prefer, all of it before and after.
    DATASET is as for `kiloword evaluate`. What the numbers mean: docs/AUDIT.md.
    """
    from kiloword.runtime.captioner import Captioner

    wording = read_wording(avoid_words, prefer)
    with needs_extra("train"):
        from kiloword.train.audit import as_table, to_json
        from kiloword.train.audit import audit as run_audit
        from kiloword.train.audit_page import as_page
        from kiloword.train.boxes import read_boxes
        from kiloword.train.datasets import load_records

    things = None if boxes is None else read_boxes(Path(boxes))
    records = load_records(dataset, None if split == "all" else split, images=images).records
    captioner = Captioner.load(bundle, provider=provider, threads=threads)
    settings: dict[str, Any] = {"boxes": things, "num_beams": num_beams, "batch_size": batch_size}
    audits = [run_audit(captioner, records, "as trained", **settings)]
    if wording is not None:
        name = " ".join(
            [*(f"--avoid-words {item}" for item in avoid_words), *(f"--prefer {item}" for item in prefer)]
        )
        audits.append(run_audit(captioner.reworded(wording), records, name, **settings))
    facts = {
        "bundle": captioner.bundle.name,
        "precision": captioner.bundle.manifest.precision,
        "provider": captioner.provider,
        "split": split,
    }
    with open_output(output) as stream:
        stream.write(to_json(audits, facts) if format_name == "json" else as_table(audits))
    if page is not None:
        with open_output(page) as stream:
            stream.write(as_page(audits, f"{captioner.bundle.name}: {Path(dataset).name}, {split}"))
