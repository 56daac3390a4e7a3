"""What the core takes on disk, package by package, and the wheel: nothing is downloaded.

    python -m benchmarks.install_size

The packages are those that kiloword and its dependencies ask for without extras, as they are installed where
this runs. Bytecode is counted apart, twice: all of it, which pip writes, and that of what is imported to
caption the example photos, which is all that there is after `pip install --no-compile` and `make demo`.
"""

from __future__ import annotations

import compileall
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click

import kiloword
from benchmarks.machine import REPOSITORY, write_result

BYTES = ("bytes", "bytecode_bytes", "imported_bytecode_bytes")
"""Of a package: its files, all of their bytecode, and the bytecode of what captioning imports."""


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


def bytecode_of_imports(packages: Iterable[str]) -> dict[str, int]:
    """Bytes of bytecode, by package, of what captioning the example photos imports."""
    with tempfile.TemporaryDirectory() as prefix:
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        command = [sys.executable, "cli.py", "caption", "examples/photos", "--format", "table"]
        subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**variables, "PYTHONPYCACHEPREFIX": prefix},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        found = {package: sum(map(_bytes_of, _bytecode(package, Path(prefix)))) for package in packages}
        own = Path(kiloword.__file__).parent  # which pip need not have installed from files
        return {**found, "kiloword": _bytes_below(_beneath(Path(prefix), own))}


def _bytecode(package: str, prefix: Path) -> Iterator[Path]:
    """Where Python keeps the bytecode of a package's modules below a prefix."""
    for file in metadata.files(package) or []:
        if file.suffix == ".py":
            source = Path(str(file.locate()))
            name = f"{source.stem}.{sys.implementation.cache_tag}.pyc"
            yield _beneath(prefix, source.parent) / name


def _beneath(prefix: Path, path: Path) -> Path:
    return prefix / path.absolute().relative_to(path.anchor)


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


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
    imported = bytecode_of_imports(sizes)
    rows: list[dict[str, Any]] = [
        {
            "package": package,
            "bytes": files,
            "bytecode_bytes": bytecode,
            "imported_bytecode_bytes": imported[package],
        }
        for package, (files, bytecode) in sorted(sizes.items(), key=lambda item: -sum(item[1]))
    ]
    together: dict[str, Any] = {"package": "together"}
    together |= {name: sum(row[name] for row in rows) for name in BYTES}
    for row in [*rows, together]:
        click.echo(f"{row['package']:20}" + "".join(f"{row[name] / 1e6:8.1f} MB" for name in BYTES))
    click.echo(f"{'the wheel':20}{wheel / 1e6:8.1f} MB")
    click.echo(f"wrote {write_result('install_size', {'wheel_bytes': wheel}, rows, output)}", err=True)


if __name__ == "__main__":
    main()
