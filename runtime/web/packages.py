"""Packages of npm, fetched with npm itself when a page is built, and kept for the next time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from kiloword.runtime.errors import KilowordError

_TIMEOUT_S = 600


def npm_package(name: str, version: str, *, hint: str) -> Path:
    """The unpacked package; from the cache where it was fetched before.

    Args:
        name: Its name, such as ``onnxruntime-web``.
        version: Exactly this version; npm checks the registry's hash of it.
        hint: What helps where npm is missing.

    Returns:
        The directory with its ``package.json``.

    Raises:
        KilowordError: npm is missing or fails.
    """
    kept = _cache() / "npm" / f"{name.replace('/', '+')}-{version}"
    if (kept / "package.json").is_file():
        return kept
    npm = shutil.which("npm")
    if npm is None:
        raise KilowordError(f"npm is needed once, to fetch {name} {version}, and is not installed", hint=hint)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        unpacked = _unpack(_pack(npm, f"{name}@{version}", Path(scratch), hint), Path(scratch))
        try:
            os.rename(unpacked, kept)
        except OSError:  # another process was faster; what it wrote is the same
            if not (kept / "package.json").is_file():
                raise
    return kept


def _pack(npm: str, package: str, folder: Path, hint: str) -> Path:
    command = [npm, "pack", package, "--pack-destination", str(folder), "--silent", "--ignore-scripts"]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=_TIMEOUT_S, check=False, cwd=folder
        )
    except subprocess.TimeoutExpired as error:
        raise KilowordError(f"npm did not fetch {package} in time", hint=hint) from error
    archives = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise KilowordError(f"npm could not fetch {package}", found=lines[-1], hint=hint)
    return archives[0]


def _unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as package:
        if sys.version_info >= (3, 12) or hasattr(tarfile, "data_filter"):
            package.extractall(folder, filter="data")
        else:  # before the filters of 3.10.12 and 3.11.4
            safe = [one for one in package.getmembers() if one.isfile() and ".." not in Path(one.name).parts]
            package.extractall(folder, [one for one in safe if not Path(one.name).is_absolute()])
    return folder / "package"


def _cache() -> Path:
    """Where programs keep what they can fetch again."""
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "kiloword"
