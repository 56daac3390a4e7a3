"""What every encoder is: pixels to a grid of features, in levels of which the lower ones can be frozen.

Shape legend:
    - B: batch, N: tokens (leading ones such as a class token, then cells of the grid row by row), C: channels
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kiloword.train.checks import too_small


@dataclass(frozen=True)
class FeatureShape:
    """What an encoder returns of a picture: ``leading`` tokens, then a grid of cells row by row."""

    channels: int
    """Width of a token."""
    rows: int
    """Height of the grid in cells."""
    columns: int
    """Width of the grid in cells."""
    leading: int = 0
    """Tokens before the grid that stand for no place, such as a class token."""

    @property
    def cells(self) -> int:
        """Tokens that stand for a place in the picture."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.leading + self.cells


@dataclass(frozen=True)
class EncoderConfig(ABC):
    """The ``[encoder]`` table of a recipe; ``kind`` decides which subclass reads it."""

    image_size: int = 224
    """Height and width of the picture in pixels."""
    kind: str = field(default="", kw_only=True)
    """Name in `registry.ENCODERS`."""
    weights: str | None = field(default=None, kw_only=True)
    """safetensors file to start from, relative to ``data.root``; by default the weights start random."""
    pixel_mean: tuple[float, ...] = field(default=(0.5, 0.5, 0.5), kw_only=True)
    """Mean of each colour channel, on the scale 0..1, subtracted inside the model."""
    pixel_std: tuple[float, ...] = field(default=(0.5, 0.5, 0.5), kw_only=True)
    """Standard deviation of each colour channel, divided by inside the model."""

    @classmethod
    def kinds(cls) -> Mapping[str, type[EncoderConfig]]:
        """The classes that ``kind`` may name, the default first (see `runtime.schema`)."""
        from kiloword.train.models.registry import ENCODERS

        return ENCODERS

    @property
    @abstractmethod
    def levels(self) -> int:
        """Parts that can be frozen one after the other, from the pixels up."""

    @abstractmethod
    def build(self) -> Encoder:
        """The encoder with fresh weights."""

    @abstractmethod
    def describe(self) -> str:
        """The architecture in a few words, for the card of a bundle."""

    def problems(self) -> list[str]:
        """Values that make no sense; a kind adds its own."""
        found = too_small(self, 1, "image_size")
        for name in ("pixel_mean", "pixel_std"):
            if len(getattr(self, name)) != 3:
                found.append(f"{name}: expected 3 numbers, found {len(getattr(self, name))}")
        if 0 in self.pixel_std:
            found.append("pixel_std: expected numbers other than 0")
        return found


class Encoder(nn.Module, ABC):
    """Pixels to features, in levels.

    Level 0 is what comes before the first block (a projection of patches, a first convolution); levels 1 to
    ``levels`` are blocks; what follows the last one (a final norm) belongs to it. A stage of training with
    ``frozen_blocks = n`` computes `forward_until` (pixels, n) once for each photo and trains what
    `forward_from` does.
    """

    config: EncoderConfig

    @property
    def levels(self) -> int:
        """Blocks that can be frozen one after the other."""
        return self.config.levels

    @property
    @abstractmethod
    def output(self) -> FeatureShape:
        """Shape of the features of one picture."""

    @abstractmethod
    def hidden_shape(self, level: int) -> tuple[int, ...]:
        """Shape of what `forward_until` returns for one picture."""

    @abstractmethod
    def forward_until(self, pixels: Tensor, level: int) -> Tensor:
        """The hidden state after ``level`` blocks: what a frozen lower part computes.

        Args:
            pixels: uint8 (B, height, width, 3), RGB.
            level: 0 to ``levels``.

        Returns:
            float (B, *hidden_shape(level)).
        """

    @abstractmethod
    def forward_from(self, hidden: Tensor, level: int) -> Tensor:
        """The features, from the hidden state after ``level`` blocks.

        Args:
            hidden: float (B, *hidden_shape(level)).
            level: 0 to ``levels``.

        Returns:
            float (B, N, C), as ``output`` says.
        """

    @abstractmethod
    def level_of(self, name: str) -> int:
        """The level that the parameter or buffer called ``name`` belongs to, 0 to ``levels``."""

    def rate_level(self, name: str) -> int:
        """The level whose learning rate a parameter has; the one that it belongs to unless overridden."""
        return self.level_of(name)

    def frozen_config(self, level: int) -> EncoderConfig:  # noqa: ARG002
        """What `forward_until` (level) depends on beside weights; encoders with the same share a cache."""
        return self.config

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (B, height, width, 3) -> features (B, N, C)."""
        return self.forward_from(self.forward_until(pixels, 0), 0)

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights under this encoder's names and in its shapes; by default as they are.

        Args:
            weights: what a file holds.

        Returns:
            Tensors for `load_state_dict`; what the encoder does not need (a classifier) is left out.
        """
        return dict(weights)

    def may_start_fresh(self, name: str) -> bool:  # noqa: ARG002
        """Whether published weights may lack this tensor, which then keeps its fresh values."""
        return False

    def for_export(self) -> nn.Module:
        """Pixels to features by a graph that is as small as can be: constants multiplied out beforehand."""
        return self


class PixelNorm(nn.Module):
    """uint8 (B, height, width, 3) -> float (B, 3, height, width), less the mean, over the deviation."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        mean, std = torch.tensor(config.pixel_mean), torch.tensor(config.pixel_std)
        self.register_buffer("scale", (1.0 / (255.0 * std)).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (mean / std).view(3, 1, 1), persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised channels first."""
        return pixels.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale - self.shift


def as_tokens(grid: Tensor) -> Tensor:
    """(B, C, rows, columns) -> (B, rows * columns, C)."""
    return grid.flatten(2).transpose(1, 2)
