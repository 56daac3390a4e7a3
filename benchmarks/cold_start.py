"""From starting a process to its answer: wall time, processor time and peak memory of fresh processes.

The files are in the page cache (one uncounted run of each comes first), as they are for whoever captions
twice a day. `kiloword bench` measures the same processes, and those that find nothing in the cache.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import REPOSITORY, pin_to_cpus, write_result
from kiloword.runtime.bench.starts import Start, measure_starts, programs

PHOTO = REPOSITORY / "examples" / "photos" / "cat.jpg"


def row(start: Start) -> dict[str, Any]:
    """One program as results keep it."""
    return {"program": start.program, "ms": asdict(start.ms), "peak_rss_bytes": start.peak_rss_bytes}


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle other than the one that ships.")
@click.option("--runs", default=15, show_default=True, help="Processes of each kind.")
@click.option("--cpus", type=int, help="Keep everything on this many processors.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(bundle: Path | None, runs: int, cpus: int | None, output: Path | None) -> None:
    """Measure time and memory from starting a process to its caption."""
    if cpus is not None:
        pin_to_cpus(cpus)
    commands = {
        "import kiloword": [sys.executable, "-c", "import kiloword"],
        **programs(str(PHOTO), bundle),
    }
    starts = measure_starts(commands, runs, cold=False)
    for start in starts:
        times, memory = start.ms, start.peak_rss_bytes / 1e6
        click.echo(f"{start.program:34} {times.median:7.0f} ms  p95 {times.p95:7.0f} ms  {memory:5.0f} MB")
    settings = {"runs": runs, "cpus": cpus}
    click.echo(f"wrote {write_result('cold_start', settings, map(row, starts), output)}", err=True)


if __name__ == "__main__":
    main()
