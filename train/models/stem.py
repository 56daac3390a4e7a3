"""A few strided convolutions: the stem of a hybrid, and the smallest encoder there is.

Source: Xiao et al., "Early Convolutions Help Transformers See Better", arXiv 2106.14881.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from kiloword.train.models.convolution import ConvNorm, ConvolutionalEncoder, halves
from kiloword.train.models.encoder import EncoderConfig


@dataclass(frozen=True)
class ConvStemConfig(EncoderConfig):
    """4 x 4 convolutions, each of which halves the grid."""

    kind: Literal["conv_stem"] = field(default="conv_stem", kw_only=True)
    widths: tuple[int, ...] = (32, 64, 128, 192)
    """Channels after each convolution; four make cells of 16 x 16 pixels."""

    @property
    def levels(self) -> int:
        """All convolutions but the first."""
        return len(self.widths) - 1

    def build(self) -> ConvolutionalEncoder:
        """A stem with fresh weights."""
        pairs = list(zip((3, *self.widths), self.widths, strict=False))
        layers = [
            nn.Sequential(ConvNorm(channels, width, size=4, stride=2), nn.ReLU()) for channels, width in pairs
        ]
        shapes = zip(self.widths, halves(self.image_size, [2] * len(layers)), strict=True)
        return ConvolutionalEncoder(self, layers[0], layers[1:], list(shapes))

    def describe(self) -> str:
        """The architecture in a few words."""
        return f"{len(self.widths)} convolutions, {self.image_size} x {self.image_size} pixels"

    def problems(self) -> list[str]:
        """Values that make no sense."""
        found = super().problems()
        if not self.widths or min(self.widths) < 1:
            found.append(f"widths: expected one or more, each 1 or more, found {list(self.widths)}")
        if self.image_size < 2 ** len(self.widths):
            found.append(f"image_size: expected {2 ** len(self.widths)} or more for so many convolutions")
        return found
