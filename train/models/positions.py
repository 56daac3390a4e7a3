"""Where a token stands: fixed sinusoids in one or two dimensions, and learned positions for another grid.

Shape legend:
    - N: positions, W: width of a token
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

ImagePositions = Literal["learned", "sinusoidal_1d", "sinusoidal_2d"]
"""What an encoder may add to its tokens."""


def sinusoidal(positions: int, width: int) -> Tensor:
    """Sines and cosines of wavelengths from 2 pi to 10000 * 2 pi: (N, W) float.

    Sine and cosine of a wavelength stand side by side. ``width`` must be even.

    Source: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, section 3.5.
    """
    places = torch.arange(positions, dtype=torch.float64)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width))
    return torch.stack([(places * rates).sin(), (places * rates).cos()], dim=-1).flatten(1).float()


def sinusoidal_grid(rows: int, columns: int, width: int) -> Tensor:
    """Half of the width tells the row, the other half the column: (rows * columns, W) float, row by row.

    ``width`` must be a multiple of 4.
    """
    row = sinusoidal(rows, width // 2)[:, None].expand(-1, columns, -1)
    column = sinusoidal(columns, width // 2)[None].expand(rows, -1, -1)
    return torch.cat([row, column], dim=-1).flatten(0, 1)


def fixed_positions(kind: ImagePositions, rows: int, columns: int, width: int, leading: int) -> Tensor:
    """Sinusoids for leading tokens and a grid: (leading + rows * columns, W).

    In one dimension the leading tokens are the first positions; in two they have no place and get zeros.
    """
    if kind == "sinusoidal_1d":
        return sinusoidal(leading + rows * columns, width)
    return torch.cat([torch.zeros(leading, width), sinusoidal_grid(rows, columns, width)])


def position_problems(kind: ImagePositions, width: int) -> list[str]:
    """Why a width has no such positions."""
    needed = {"learned": 1, "sinusoidal_1d": 2, "sinusoidal_2d": 4}[kind]
    if width % needed == 0:
        return []
    return [f"positions {kind!r} need a width that is a multiple of {needed}, found {width}"]


def interpolate_positions(learned: Tensor, rows: int, columns: int, leading: int) -> Tensor:
    """Learned positions of a square grid, resampled for another grid; leading tokens keep theirs.

    Args:
        learned: (1, leading + side * side, W).
        rows: of the new grid.
        columns: of the new grid.
        leading: tokens before the grid.

    Returns:
        (1, leading + rows * columns, W), by bicubic interpolation.

    Source: Dosovitskiy et al., arXiv 2010.11929, section 3.2 (fine-tuning at higher resolution).
    """
    width, side = learned.shape[-1], math.isqrt(learned.shape[1] - leading)
    grid = learned[:, leading:].reshape(1, side, side, width).permute(0, 3, 1, 2)
    resampled = F.interpolate(grid.float(), (rows, columns), mode="bicubic", align_corners=False)
    cells = resampled.permute(0, 2, 3, 1).reshape(1, rows * columns, width).to(learned.dtype)
    return torch.cat([learned[:, :leading], cells], dim=1)
