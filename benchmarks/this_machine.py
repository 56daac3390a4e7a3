"""`kiloword bench` over the example photos, kept: one photo, processes, a folder, cold starts, floors.

    python -m benchmarks.this_machine

The figures of docs/BENCHMARKS.md come from its result; docs/benchmarks.py writes that page.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from benchmarks.machine import REPOSITORY, write_result
from kiloword.runtime.bench.suite import QUICK, Effort, run_bench

PHOTOS = REPOSITORY / "examples" / "photos"


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle other than the one that ships.")
@click.option("--quick", is_flag=True, help="A few rounds of each.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(bundle: Path | None, quick: bool, output: Path | None) -> None:
    """Measure this machine with a bundle."""
    photos = [str(photo) for photo in sorted(PHOTOS.glob("*.jpg"))]
    effort = QUICK if quick else Effort()
    found = run_bench(bundle, photos, None, effort, lambda text: click.echo(f"{text} ...", err=True))
    settings = {"quick": quick, **asdict(effort), "photos": len(photos)}
    click.echo(f"wrote {write_result('this_machine', settings, [asdict(found)], output)}", err=True)


if __name__ == "__main__":
    main()
