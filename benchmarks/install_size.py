"""What the core takes on disk, package by package, and the wheel: nothing is downloaded.

    python -m benchmarks.install_size

The packages are those that kiloword and its dependencies ask for without extras, as they are installed where
this runs. Bytecode is counted apart: pip writes it, other installers leave it to the first import.
"""

from __future__ import annotations

import compileall
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import click

from benchmarks.machine import REPOSITORY, write_result


def core_packages(root: str = "kiloword") -> list[str]:
    """The package, and all that it needs without extras."""
    found: dict[str, None] = {}
    waiting = [root]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system or Python
            continue
        found[name] = None
        waiting += [needed for line in needs if (needed := _needed_always(line))]
    return list(found)


def _needed_always(requirement: str) -> str | None:
    """The name in a requirement; None if an extra is what asks for it."""
    name, _, marker = requirement.partition(";")
    match = re.match(r"[\w.-]+", name)
    return None if match is None or "extra" in marker else match[0]


def size_of(package: str) -> tuple[int, int]:
    """Bytes of a package's files without its bytecode, and of its bytecode."""
    sizes = {True: 0, False: 0}
    for file in metadata.files(package) or []:
        path = Path(str(file.locate()))
        if path.is_file():
            sizes[path.suffix == ".pyc"] += path.stat().st_size
    return sizes[False], sizes[True]


def weigh_wheel() -> tuple[int, int, int]:
    """Build the wheel of this checkout: its size, its files' bytes, and those of their bytecode."""
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, "."]
        subprocess.run(build, cwd=REPOSITORY, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        unpacked = Path(folder) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        files = _bytes_below(unpacked)
        compileall.compile_dir(unpacked, quiet=2)
        return wheel.stat().st_size, files, _bytes_below(unpacked) - files


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@click.command()
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(output: Path | None) -> None:
    """Weigh the wheel and what `pip install kiloword` brings."""
    wheel, *own = weigh_wheel()
    sizes = {name: tuple(own) if name == "kiloword" else size_of(name) for name in core_packages()}
    rows = [
        {"package": package, "bytes": files, "bytecode_bytes": bytecode}
        for package, (files, bytecode) in sorted(sizes.items(), key=lambda item: -sum(item[1]))
    ]
    for package, (files, bytecode) in [*sizes.items(), ("together", _sums(sizes.values()))]:
        click.echo(f"{package:20}{files / 1e6:8.1f} MB  bytecode {bytecode / 1e6:5.1f} MB")
    click.echo(f"{'the wheel':20}{wheel / 1e6:8.1f} MB")
    click.echo(f"wrote {write_result('install_size', {'wheel_bytes': wheel}, rows, output)}", err=True)


def _sums(pairs: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*pairs, strict=True)))


if __name__ == "__main__":
    main()
