"""A small residual network, for training from scratch.

Source: He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385, with basic blocks; a
    strided block takes the place of max pooling, and what halves the grid is 4 x 4 (see `ConvNorm`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from kiloword.train.models.convolution import ConvNorm, ConvolutionalEncoder, halves
from kiloword.train.models.encoder import EncoderConfig


@dataclass(frozen=True)
class ResNetConfig(EncoderConfig):
    """Stages of residual blocks; the stem and the first block of each stage halve the grid."""

    kind: Literal["resnet"] = field(default="resnet", kw_only=True)
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Channels of each stage; the stem has those of the first."""
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks of each stage."""

    @property
    def levels(self) -> int:
        """Blocks of all stages."""
        return sum(self.blocks)

    def build(self) -> ConvolutionalEncoder:
        """A residual network with fresh weights."""
        widths = [width for width, count in zip(self.widths, self.blocks, strict=True) for _ in range(count)]
        strides = [2 if place == 0 else 1 for count in self.blocks for place in range(count)]
        stem = nn.Sequential(ConvNorm(3, self.widths[0], size=4, stride=2), nn.ReLU())
        channels = [self.widths[0], *widths]
        blocks = [
            ResidualBlock(before, after, stride)
            for before, after, stride in zip(channels, widths, strides, strict=False)
        ]
        shapes = zip(channels, halves(self.image_size, [2, *strides]), strict=True)
        return ConvolutionalEncoder(self, stem, blocks, list(shapes))

    def describe(self) -> str:
        """The architecture in a few words."""
        stages = ", ".join(
            f"{count} x {width}" for count, width in zip(self.blocks, self.widths, strict=True)
        )
        return f"ResNet, {self.image_size} x {self.image_size} pixels, blocks {stages}"

    def problems(self) -> list[str]:
        """Values that make no sense."""
        found = super().problems()
        for name in ("widths", "blocks"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                found.append(
                    f"{name}: expected one or more, each 1 or more, found {list(getattr(self, name))}"
                )
        if self.image_size < 2 ** (1 + len(self.widths)):
            found.append(f"image_size: expected {2 ** (1 + len(self.widths))} or more for so many stages")
        if len(self.widths) != len(self.blocks):
            found.append(f"blocks: expected as many as widths, {len(self.widths)}, found {len(self.blocks)}")
        return found


class ResidualBlock(nn.Module):
    """Two convolutions, and what went in added to what comes out."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, width, size=2 + stride, stride=stride)
        self.second = ConvNorm(width, width, size=3)
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else ConvNorm(channels, width, size=stride, stride=stride)
        self.relu = nn.ReLU()
        if isinstance(self.second.norm, nn.BatchNorm2d):
            nn.init.zeros_(self.second.norm.weight)  # at first a block adds nothing

    def forward(self, grid: Tensor) -> Tensor:
        """(B, channels, rows, columns) -> (B, width, rows / stride, columns / stride)."""
        mixed = self.second(self.relu(self.first(grid)))
        return self.relu(self.shortcut(grid) + mixed)  # type: ignore[no-any-return]
