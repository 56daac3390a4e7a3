"""Whether anything changed in front of the camera: a cheap look at a small picture, before any captioning.

A frame is reduced to 32 x 24 cells of mean colour (0.3 ms). Sensor noise averages out in a cell, and a change
of light that the whole picture shares (a camera's exposure and white balance, a cloud) is taken out, so what
is left is something that moved, came or went.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Small: TypeAlias = "NDArray[np.float32]"
"""float32 (rows, columns, 3): the mean colour of each cell, 0..255."""

_ROWS, _COLUMNS = 24, 32
_SAMPLES_PER_CELL = 8  # along each axis: the noise of a dark room (15 levels) is below 2 in the mean of 64
_SHARED_SHIFT = 16.0  # levels that all cells may move together, as by a camera's exposure
_CHANGED_LEVELS = 12.0
_CHANGED_SHARE = 0.02  # of the cells: a hand that comes into the picture, but not a blinking light
_CUT_LEVELS = 24.0
_CUT_SHARE = 0.4


def shrink(bgr: NDArray[np.uint8]) -> Small:
    """Reduce a frame to the mean colours of its cells.

    Args:
        bgr: uint8 (height, width, 3).

    Returns:
        float32 (24, 32, 3); fewer rows or columns where the frame itself has fewer.
    """
    height, width = bgr.shape[:2]
    rows, columns = min(_ROWS, height), min(_COLUMNS, width)
    # Every n-th row and column is enough for a mean, and saves reading the megabytes of a large frame.
    sampled = bgr[:: max(1, height // (rows * _SAMPLES_PER_CELL))]
    per_row, per_column = sampled.shape[0] // rows, width // columns
    # Whole rows are added first, then columns: long inner loops take an eighth of the time.
    bands = sampled[: rows * per_row, : columns * per_column].reshape(rows, per_row, -1)
    band = _sum_of(bands[:, row] for row in range(per_row))
    cells = band.reshape(rows, columns, per_column, 3)
    step = max(1, per_column // _SAMPLES_PER_CELL)
    total = _sum_of(cells[:, :, column] for column in range(0, per_column, step))
    mean: Small = total.astype(np.float32) / np.float32(per_row * -(-per_column // step))
    return mean


def _sum_of(parts: Iterator[NDArray[np.uint8] | NDArray[np.uint32]]) -> NDArray[np.uint32]:
    total = next(parts).astype(np.uint32)
    for part in parts:
        total += part
    return total


def changed_share(before: Small, after: Small, levels: float = _CHANGED_LEVELS) -> float:
    """The share of cells, 0..1, whose colour moved by more than this, beyond what all moved together."""
    if before.shape != after.shape:  # another camera, or the same one turned
        return 1.0
    difference = after - before
    if np.abs(difference).max(initial=0.0) <= levels / 2:  # then nothing moved by more, whatever is shared
        return 0.0
    shared = np.median(difference, axis=(0, 1)).clip(-_SHARED_SHIFT, _SHARED_SHIFT)
    moved = np.abs(difference - shared).max(axis=2) > levels
    return float(moved.mean())


def largest_change(before: Small, after: Small) -> float:
    """By how many levels the cell that changed most did, light included."""
    return 255.0 if before.shape != after.shape else float(np.abs(after - before).max())


def is_cut(before: Small, after: Small) -> bool:
    """Whether a frame shows another scene than the one just before it."""
    return changed_share(before, after, _CUT_LEVELS) >= _CUT_SHARE


class SceneGate:
    """Lets a frame through that differs from the last one that was captioned.

    It is compared with the captioned one and not with the one before it, so slow changes add up and pass.
    """

    def __init__(self) -> None:
        self._captioned: Small | None = None

    def is_new(self, small: Small) -> bool:
        """Whether something changed since the frame that was captioned; the first one is new."""
        return self._captioned is None or changed_share(self._captioned, small) >= _CHANGED_SHARE

    def close(self, small: Small) -> None:
        """Remember the frame that is captioned now."""
        self._captioned = small


class Pace:
    """At most so many captions a second, of which one is kept back for a scene that is cut.

    While things move, captions come at the full rate. A cut does not wait for its turn but uses the reserve,
    which then fills up again: over time the rate holds.

    Args:
        per_second: The rate.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._saved = 2.0
        self._updated_at: float | None = None

    def wait_s(self, now: float, *, cut: bool) -> float:
        """Seconds until the next caption may be made; 0 for now.

        Args:
            now: The time, in seconds of a clock that never goes back.
            cut: Whether the scene was cut.
        """
        self._fill(now)
        missing = (1.0 if cut else 2.0) - self._saved
        return max(0.0, missing / self._per_second)

    def spend(self, now: float) -> None:
        """Count a caption that begins now."""
        self._fill(now)
        self._saved = max(0.0, self._saved - 1.0)

    def _fill(self, now: float) -> None:
        if self._updated_at is not None:
            gained = (now - self._updated_at) * self._per_second
            # The small surplus: a wait of exactly wait_s must never end a rounding error too early.
            self._saved = min(2.0, self._saved + gained + 1e-9)
        self._updated_at = now
