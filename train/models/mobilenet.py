"""MobileNetV2 with batch norms folded into its convolutions, as published for inference.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv 1801.04381, table 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from kiloword.train.models.convolution import ConvolutionalEncoder, sides
from kiloword.train.models.encoder import EncoderConfig

_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks, stride of the first block."""
_STEM, _LAST = 32, 1280
_STAGES_AT_STRIDE_16 = 5


@dataclass(frozen=True)
class MobileNetV2Config(EncoderConfig):
    """MobileNetV2 at the width that its published weights have, or narrower."""

    kind: Literal["mobilenet_v2"] = field(default="mobilenet_v2", kw_only=True)
    pixel_mean: tuple[float, ...] = field(default=(0.485, 0.456, 0.406), kw_only=True)
    """ImageNet's, as the published weights expect them."""
    pixel_std: tuple[float, ...] = field(default=(0.229, 0.224, 0.225), kw_only=True)
    """ImageNet's, as the published weights expect them."""
    stride: Literal[16, 32] = 32
    """Side of a cell in pixels: 32 for the last grid (7 x 7 x 1280 at 224 pixels), 16 for the one before
    (14 x 14 x 96), which ends after 13 of the 17 blocks."""
    width_multiplier: float = 1.0
    """Factor on all channels."""

    @property
    def levels(self) -> int:
        """Inverted residual blocks, and the last convolution where it is used."""
        return sum(count for _, _, count, _ in self._stages) + (self.stride == 32)

    @property
    def _stages(self) -> tuple[tuple[int, int, int, int], ...]:
        return _STAGES if self.stride == 32 else _STAGES[:_STAGES_AT_STRIDE_16]

    def _channels(self, channels: int) -> int:
        """A multiple of 8 near the wanted width, never more than a tenth below it."""
        wanted = channels * self.width_multiplier
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * wanted else rounded + 8

    def build(self) -> MobileNetV2:
        """A MobileNetV2 with fresh weights."""
        channels, blocks = [self._channels(_STEM)], list[nn.Module]()
        strides = [2]
        for expansion, width, count, first_stride in self._stages:
            for place in range(count):
                strides.append(first_stride if place == 0 else 1)
                block = InvertedResidual(channels[-1], self._channels(width), expansion, strides[-1])
                channels.append(self._channels(width))
                blocks.append(block)
        if self.stride == 32:
            blocks.append(nn.Sequential(nn.Conv2d(channels[-1], self._channels(_LAST), 1), nn.ReLU6()))
            channels.append(self._channels(_LAST))
            strides.append(1)
        stem = nn.Sequential(nn.Conv2d(3, channels[0], 3, stride=2, padding=1), nn.ReLU6())
        shapes = zip(channels, sides(self.image_size, strides), strict=True)
        return MobileNetV2(self, stem, blocks, list(shapes))

    def describe(self) -> str:
        """The architecture in a few words."""
        return f"MobileNetV2, {self.image_size} x {self.image_size} pixels, cells of {self.stride}"

    def problems(self) -> list[str]:
        """Values that make no sense."""
        found = super().problems()
        if self.width_multiplier <= 0:
            found.append(f"width_multiplier: expected more than 0, found {self.width_multiplier}")
        return found


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, project; added to the input where shapes allow."""

    def __init__(self, channels: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = channels * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [nn.Conv2d(channels, inner, 1), nn.ReLU6()]
        layers += [nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner), nn.ReLU6()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(inner, width, 1))
        self.is_residual = stride == 1 and channels == width

    def forward(self, grid: Tensor) -> Tensor:
        """(B, channels, rows, columns) -> (B, width, rows / stride, columns / stride)."""
        projected: Tensor = self.layers(grid)
        return grid + projected if self.is_residual else projected


class MobileNetV2(ConvolutionalEncoder):
    """The network; weights may be named by order of execution, ``conv0`` to ``conv51``."""

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames ``conv<n>``; convolutions after the last one that this encoder has are left out."""
        own = [name for name, part in self.named_modules() if isinstance(part, nn.Conv2d)]
        found = {}
        for name, tensor in weights.items():
            numbered = re.fullmatch(r"conv(\d+)\.(weight|bias)", name)
            if numbered is None:
                found[name] = tensor
            elif int(numbered.group(1)) < len(own):
                found[f"{own[int(numbered.group(1))]}.{numbered.group(2)}"] = tensor
        return found
