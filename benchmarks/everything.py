"""All measurements of docs/BENCHMARKS.md, one after the other, and then the page: what `make bench` runs.

    python -m benchmarks.everything [--quick] [--with-peers]

Each is a process of its own. What cannot run here (no torch, no checkpoint) is named, and the rest goes on.
Results that are in benchmarks/results/ for this processor are replaced, by a quick run as well.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

import click

from benchmarks.machine import REPOSITORY

FOLDER = "FOLDER"
"""Among arguments: an empty folder, which is gone afterwards."""


@dataclass(frozen=True)
class Part:
    """One benchmark."""

    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = ()
    """Further arguments of a quick run; None leaves it out of one."""


PARTS: Mapping[str, Part] = {
    "speed": Part(quick=("--rounds", "12")),
    "this_machine": Part(quick=("--quick",)),
    "gpu": Part(("--device", "cpu", "--batch-size", "1"), ("--rounds", "6")),
    "ways": Part(quick=("--rounds", "10")),
    "draft": Part(quick=("--count", "60")),
    "install_size": Part(),
    "counted_work": Part(),
    "cold_start": Part(quick=("--runs", "3")),
    "browser": Part(quick=("--count", "8")),
    "growth": Part((FOLDER,), ("--most", "1000", "--rounds", "20", "--folder-rounds", "1")),
    "quality": Part(quick=None),
}
PEERS: Mapping[str, Part] = {
    "peers": Part(quick=("--rounds", "6")),
    "imported": Part(("--with-optimum",), ("--without-fp32", "--rounds", "2")),
}
"""These download other programs into environments of their own; OpenVINO's takes 600 MB."""


def parts_of(*, quick: bool, with_peers: bool) -> dict[str, list[str]]:
    """What is run, with its arguments."""
    chosen = {**PARTS, **(PEERS if with_peers else {})}
    return {
        name: [*part.arguments, *((part.quick or ()) if quick else ())]
        for name, part in chosen.items()
        if not (quick and part.quick is None)
    }


def run(name: str, arguments: list[str]) -> bool:
    """Run one benchmark; False where it failed."""
    click.echo(f"== {name}", err=True)
    with tempfile.TemporaryDirectory() as folder:
        given = [folder if argument == FOLDER else argument for argument in arguments]
        command = [sys.executable, "-m", f"benchmarks.{name}", *given]
        return subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0


@click.command()
@click.option("--quick", is_flag=True, help="A few rounds of each, small folders, and no quality.")
@click.option(
    "--with-peers", is_flag=True, help="Also OpenVINO, transformers and optimum, which are downloaded."
)
def main(quick: bool, with_peers: bool) -> None:
    """Measure everything and write docs/BENCHMARKS.md."""
    parts = parts_of(quick=quick, with_peers=with_peers)
    failed = [name for name, arguments in parts.items() if not run(name, arguments)]
    subprocess.run([sys.executable, "docs/benchmarks.py"], cwd=REPOSITORY, check=True)
    if failed:
        raise click.ClickException(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
