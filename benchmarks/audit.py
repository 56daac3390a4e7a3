"""What captions say of men and women: as trained, without gendered words, and with neutral ones.

`kiloword audit` for each, in one result file without the photos. docs/AUDIT.md says what the rows mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmarks.machine import shown_path, write_result
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.wording import PREFER_PERSON, Wording
from kiloword.train.audit import Audit, as_table, audit
from kiloword.train.audit_page import as_page
from kiloword.train.datasets import load_records


def wordings() -> dict[str, Wording | None]:
    """What is measured, by the name of its column."""
    return {
        "as trained": None,
        "the same words avoided": Wording(avoid=tuple(PREFER_PERSON)),
        "--prefer person": Wording(prefer=PREFER_PERSON),
    }


def record(found: Audit) -> dict[str, Any]:
    """One row of the result: everything but the photos."""
    return {name: value for name, value in found.as_dict().items() if name != "photos"}


@click.command()
@click.argument("dataset", type=click.Path(exists=True, path_type=Path))
@click.option("--split", default="test", show_default=True)
@click.option("--bundle", type=click.Path(path_type=Path), help="The shipped one by default.")
@click.option("--num-beams", type=int, help="The bundle's own by default.")
@click.option("--threads", type=int, help="All that this process may use by default.")
@click.option("--page", type=click.Path(path_type=Path), help="Also write the page of examples.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    dataset: Path,
    split: str,
    bundle: Path | None,
    num_beams: int | None,
    threads: int | None,
    page: Path | None,
    output: Path | None,
) -> None:
    """Audit a bundle's captions before and after other words."""
    records = load_records(dataset, split).records
    captioner = Captioner.load(bundle, provider="cpu", threads=threads)
    audits = [
        audit(captioner.reworded(wording), records, name, num_beams=num_beams)
        for name, wording in wordings().items()
    ]
    click.echo(as_table(audits), nl=False)
    manifest = captioner.bundle.manifest
    settings = {
        "bundle": captioner.bundle.name,
        "precision": manifest.precision,
        "data": shown_path(dataset),
        "split": split,
        "num_beams": manifest.generation.num_beams if num_beams is None else num_beams,
    }
    if page is not None:
        page.write_text(
            as_page(audits, f"{captioner.bundle.name}: {dataset.name}, {split}"), encoding="utf-8"
        )
    click.echo(f"wrote {write_result('audit', settings, map(record, audits), output)}", err=True)


if __name__ == "__main__":
    main()
