"""All measurements of docs/BENCHMARKS.md, one after the other, and then the page: what `make bench` runs.

    python -m benchmarks.everything [--quick]

Each is a process of its own. What cannot run here (no torch, no checkpoint) is named, and the rest goes on.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

import click

from benchmarks.machine import REPOSITORY

PARTS = {
    "speed": ["--rounds", "12"],
    "this_machine": ["--quick"],
    "ways": ["--rounds", "10"],
    "install_size": [],
    "counted_work": [],
    "cold_start": ["--runs", "3"],
    "browser": ["--count", "8"],
    "quality": [],
}
"""Benchmarks, and what makes each quick; `growth` needs a folder and is apart."""
SLOW = ("quality",)


def run(name: str, arguments: list[str]) -> bool:
    """Run one benchmark; False where it failed."""
    click.echo(f"== {name}", err=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0


@click.command()
@click.option("--quick", is_flag=True, help="A few rounds of each, small folders, and no quality.")
def main(quick: bool) -> None:
    """Measure everything and write docs/BENCHMARKS.md."""
    names = [name for name in PARTS if not (quick and name in SLOW)]
    failed = [name for name in names if not run(name, PARTS[name] if quick else [])]
    with tempfile.TemporaryDirectory() as folder:
        if not run("growth", [folder, "--most", "1000" if quick else "100000"]):
            failed.append("growth")
    subprocess.run([sys.executable, "docs/benchmarks.py"], cwd=REPOSITORY, check=True)
    if failed:
        raise click.ClickException(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
