"""Large arrays that are computed once, kept in a file and mapped into memory by every later run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kiloword.runtime.errors import ConfigError


def cached_array(
    target: Path, shape: tuple[int, ...], dtype: DTypeLike, fill: Callable[[NDArray[Any]], None]
) -> NDArray[Any]:
    """An array from its file, which is made first where it is missing.

    Args:
        target: a ``.npy`` file; its name must tell apart everything that the values depend on.
        shape: of the array.
        dtype: of the array.
        fill: writes all values of a new array. The file gets its name only afterwards, so that a run that was
            killed leaves nothing half-filled.

    Returns:
        The array, read-only, memory-mapped.

    Raises:
        ConfigError: the disk has no room for it.
    """
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        _require_room(target.parent, math.prod(shape) * np.dtype(dtype).itemsize)
        partial = target.with_suffix(".part")
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
        fill(array)
        array.flush()
        partial.replace(target)
    mapped: NDArray[Any] = np.load(target, mmap_mode="r")
    return mapped


def _require_room(folder: Path, size: int) -> None:
    """A mapped file is sparse: a disk that fills up later ends the process with a bus error and no word."""
    free = shutil.disk_usage(folder).free
    if size > free:
        found = f"data.cache: expected {size / 1e9:.2f} GB of free disk, found {free / 1e9:.2f} GB"
        raise ConfigError(
            [found], path=folder, hint="--set data.cache=FOLDER on a larger disk, or fewer views"
        )
