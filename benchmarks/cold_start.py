"""From starting a process to its answer: wall time, processor time and peak memory of fresh processes.

The files are in the page cache (one uncounted run of each comes first), as they are for whoever captions
twice a day.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import REPOSITORY, pin_to_cpus, summarize, write_result

PHOTO = REPOSITORY / "examples" / "photos" / "cat.jpg"
# Linux counts in kibibytes, macOS in bytes: getrusage(2) of each.
MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Process:
    """What one fresh process took."""

    wall_ms: float
    """From before it was started until it had ended."""
    cpu_ms: float
    """Processor time of all its threads."""
    peak_rss_bytes: int
    """The most memory that it held at once."""


def start(command: Sequence[str]) -> Process:
    """Run a command to its end.

    Its `ru_maxrss` counts this process too, whose memory it shared for a moment before it became another
    program; that is why nothing heavy is imported here.

    Raises:
        click.ClickException: The command failed; with what it wrote to stderr.
    """
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=REPOSITORY)
    stderr = child.stderr.read() if child.stderr else b""
    _, status, usage = os.wait4(child.pid, 0)
    wall_ms = 1e3 * (time.perf_counter() - began)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.stderr:
        child.stderr.close()
    if child.returncode:
        raise click.ClickException(f"{' '.join(command)}: {stderr.decode(errors='replace').strip()}")
    cpu_ms = 1e3 * (usage.ru_utime + usage.ru_stime)
    return Process(wall_ms, cpu_ms, usage.ru_maxrss * MAXRSS_UNIT_BYTES)


def commands(bundle: Path | None) -> dict[str, list[str]]:
    """The programs to start, by the name that results give them."""
    kiloword = str(Path(sys.executable).with_name("kiloword"))
    option = [] if bundle is None else ["--bundle", str(bundle)]
    load = "" if bundle is None else repr(str(bundle))
    three_lines = (
        f"from kiloword import Captioner; print(Captioner.load({load}).caption({str(PHOTO)!r}).text)"
    )
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import kiloword": [sys.executable, "-c", "import kiloword"],
        "kiloword --help": [kiloword, "--help"],
        "Captioner.load().caption(photo)": [sys.executable, "-c", three_lines],
        "kiloword caption photo": [kiloword, "caption", str(PHOTO), *option],
    }


def measure(programs: dict[str, list[str]], runs: int) -> dict[str, list[Process]]:
    """Start every program `runs` times, in turn, after one start each that does not count."""
    for command in programs.values():
        start(command)
    taken: dict[str, list[Process]] = {name: [] for name in programs}
    for _ in range(runs):
        for name, command in programs.items():
            taken[name].append(start(command))
    return taken


def row(name: str, processes: Sequence[Process]) -> dict[str, Any]:
    """Summarize the processes of one program."""
    return {
        "program": name,
        "wall_ms": summarize([process.wall_ms for process in processes]),
        "cpu_ms": summarize([process.cpu_ms for process in processes]),
        "peak_rss_bytes": max(process.peak_rss_bytes for process in processes),
    }


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle other than the one that ships.")
@click.option("--runs", default=15, show_default=True, help="Processes of each kind.")
@click.option("--cpus", type=int, help="Keep everything on this many processors.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(bundle: Path | None, runs: int, cpus: int | None, output: Path | None) -> None:
    """Measure time and memory from starting a process to its caption."""
    if cpus is not None:
        pin_to_cpus(cpus)
    rows = [row(name, processes) for name, processes in measure(commands(bundle), runs).items()]
    for record in rows:
        wall, memory = record["wall_ms"], record["peak_rss_bytes"] / 1e6
        click.echo(
            f"{record['program']:34} {wall['median']:7.0f} ms  p95 {wall['p95']:7.0f} ms  {memory:5.0f} MB"
        )
    click.echo(f"wrote {write_result('cold_start', {'runs': runs, 'cpus': cpus}, rows, output)}", err=True)


if __name__ == "__main__":
    main()
