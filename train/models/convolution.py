"""Convolutional encoders: a stem, blocks that can be frozen one after the other, a grid of cells.

Shape legend:
    - B: batch, C: channels
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kiloword.train.models.encoder import Encoder, EncoderConfig, FeatureShape, PixelNorm, as_tokens


class ConvNorm(nn.Module):
    """A convolution that keeps or halves the grid, and a batch norm; exported, one convolution.

    What halves the grid has an even size: then a cell sees as far to the left as to the right of its middle.
    With 3 x 3 and padding all around, each halving moves what is seen by half a pixel of the finer grid up
    and to the left. After four of them these are 7.5 pixels, and attention lies beside the thing.
    """

    def __init__(self, channels: int, width: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, size, stride, padding=(size - stride) // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(width)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, grid: Tensor) -> Tensor:
        """(B, C, rows, columns) -> (B, width, rows / stride, columns / stride)."""
        return self.norm(self.conv(grid))  # type: ignore[no-any-return]

    def fold(self) -> None:
        """Multiplies the norm's statistics and weights into the convolution, in place."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


def with_folded_norms(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose batch norms are parts of their convolutions."""
    folded = copy.deepcopy(module).eval()
    for part in folded.modules():
        if isinstance(part, ConvNorm):
            part.fold()
    return folded


class ConvolutionalEncoder(Encoder):
    """A stem (level 0) and blocks (levels 1 and up); the features are the cells of the last grid.

    Args:
        config: of this encoder.
        stem: normalised pixels (B, 3, height, width) to the first grid.
        blocks: each takes a grid and returns one.
        shapes: channels and side of the grid at level 0, 1, ...
    """

    def __init__(
        self,
        config: EncoderConfig,
        stem: nn.Module,
        blocks: Sequence[nn.Module],
        shapes: Sequence[tuple[int, int]],
    ) -> None:
        super().__init__()
        self.config = config
        self.pixels = PixelNorm(config)
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self._shapes = tuple(shapes)

    @property
    def output(self) -> FeatureShape:
        """The cells of the last grid."""
        channels, side = self._shapes[-1]
        return FeatureShape(channels, side, side)

    def hidden_shape(self, level: int) -> tuple[int, ...]:
        """(C, rows, columns) after ``level`` blocks."""
        channels, side = self._shapes[level]
        return channels, side, side

    def forward_until(self, pixels: Tensor, level: int) -> Tensor:
        """The grid after ``level`` blocks."""
        grid: Tensor = self.stem(self.pixels(pixels))
        for block in self.blocks[:level]:
            grid = block(grid)
        return grid

    def forward_from(self, hidden: Tensor, level: int) -> Tensor:
        """The cells of the last grid, from the grid after ``level`` blocks."""
        for block in self.blocks[level:]:
            hidden = block(hidden)
        return as_tokens(hidden)

    def level_of(self, name: str) -> int:
        """0 for the stem, then the number of the block."""
        block = re.match(r"blocks\.(\d+)\.", name)
        return int(block.group(1)) + 1 if block else 0

    def for_export(self) -> nn.Module:
        """The same without batch norms."""
        return with_folded_norms(self)


def halves(image_size: int, strides: Sequence[int]) -> list[int]:
    """Side of the grid after each stride, rounded down: an odd last row is seen by nobody.

    >>> halves(100, [2, 2, 1, 2])
    [50, 25, 25, 12]
    """
    found = []
    for stride in strides:
        image_size //= stride
        found.append(image_size)
    return found


def sides(image_size: int, strides: Sequence[int]) -> list[int]:
    """Side of the grid after each stride, rounded up as convolutions with padding do.

    >>> sides(224, [2, 2, 1, 2])
    [112, 56, 56, 28]
    """
    found = []
    for stride in strides:
        image_size = -(-image_size // stride)
        found.append(image_size)
    return found
