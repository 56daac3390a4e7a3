"""A Transformer encoder over the grid of any convolutional encoder: a short stem, or a whole network.

Shape legend:
    - B: batch, N: cells of the grid row by row, C: channels of the grid, W: width of a token

Source: Dosovitskiy et al., arXiv 2010.11929, section 3.1 ("Hybrid Architecture").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from kiloword.train.checks import not_a_share, too_small
from kiloword.train.models.encoder import Encoder, EncoderConfig, FeatureShape
from kiloword.train.models.positions import ImagePositions, fixed_positions, position_problems
from kiloword.train.models.stem import ConvStemConfig
from kiloword.train.models.vit import Block


@dataclass(frozen=True)
class HybridConfig(EncoderConfig):
    """``[encoder.cnn]`` is the table of the encoder below; ``weights`` are those of that encoder."""

    kind: Literal["hybrid"] = field(default="hybrid", kw_only=True)
    cnn: EncoderConfig = field(default_factory=ConvStemConfig)
    """What makes the grid, and normalises the pixels. It takes ``image_size`` from the hybrid."""
    width: int = 192
    """Width of a token."""
    depth: int = 4
    """Number of Transformer blocks over the grid."""
    heads: int = 3
    """Attention heads; must divide ``width``."""
    drop_path: float = 0.0
    """Probability that the last Transformer block is skipped in training, earlier ones less."""
    positions: ImagePositions = "learned"
    """Learned, or fixed sinusoids that count cells or tell row and column."""

    @property
    def levels(self) -> int:
        """Those of the grid's encoder, then each Transformer block."""
        return self.cnn.levels + self.depth

    def build(self) -> Hybrid:
        """A hybrid with fresh weights."""
        return Hybrid(self)

    def describe(self) -> str:
        """The architecture in a few words."""
        below = replace(self.cnn, image_size=self.image_size).describe()
        return f"{below}, then {self.depth} Transformer blocks of width {self.width}"

    def problems(self) -> list[str]:
        """Values that make no sense."""
        found = super().problems() + too_small(self, 1, "width", "depth", "heads")
        found += not_a_share(self, "drop_path")
        if not found and self.width % self.heads:
            found.append(f"heads {self.heads} does not divide width {self.width}")
        if not found:
            found += position_problems(self.positions, self.width)
        plain = EncoderConfig.__dataclass_fields__
        for name in ("pixel_mean", "pixel_std"):
            if getattr(self, name) != plain[name].default:
                found.append(f"{name}: is a key of [encoder.cnn] here")
        for name in ("image_size", "weights"):
            if getattr(self.cnn, name) not in (plain[name].default, getattr(self, name)):
                found.append(f"cnn.{name}: is a key of [encoder] here")
        return found + [
            f"cnn.{problem}" for problem in replace(self.cnn, image_size=self.image_size).problems()
        ]


class Hybrid(Encoder):
    """Grid, projection to tokens, positions, pre-norm Transformer blocks, final norm; no class token."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config: HybridConfig = config
        self.cnn = replace(config.cnn, image_size=config.image_size).build()
        grid, width = self.cnn.output, config.width
        self.projection = nn.Linear(grid.channels, width)
        self.pos_embed: Tensor
        if config.positions == "learned":
            self.pos_embed = nn.Parameter(torch.randn(1, grid.tokens, width) * 0.02)
        else:
            fixed = fixed_positions(config.positions, grid.rows, grid.columns, width, grid.leading)
            self.register_buffer("pos_embed", fixed[None], persistent=False)
        rates = torch.linspace(0, config.drop_path, config.depth).tolist()
        self.blocks = nn.ModuleList(Block(width, config.heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @property
    def output(self) -> FeatureShape:
        """The grid's cells, each as wide as a token."""
        return replace(self.cnn.output, channels=self.config.width)

    def hidden_shape(self, level: int) -> tuple[int, ...]:
        """The grid encoder's up to its last level, then (N, W)."""
        if level <= self.cnn.levels:
            return self.cnn.hidden_shape(level)
        return self.output.tokens, self.config.width

    def forward_until(self, pixels: Tensor, level: int) -> Tensor:
        """The hidden state of the grid's encoder, or the tokens after some Transformer blocks."""
        below = min(level, self.cnn.levels)
        hidden = self.cnn.forward_until(pixels, below)
        return hidden if below == level else self._through(self._tokens(hidden, below), 0, level - below)

    def forward_from(self, hidden: Tensor, level: int) -> Tensor:
        """The features, from the hidden state after ``level`` blocks of either kind."""
        done = max(0, level - self.cnn.levels)
        tokens = hidden if done else self._tokens(hidden, level)
        return self.norm(self._through(tokens, done, self.config.depth))  # type: ignore[no-any-return]

    def _tokens(self, hidden: Tensor, level: int) -> Tensor:
        """The grid's remaining levels, then (B, N, C) -> (B, N, W) with positions."""
        return self.projection(self.cnn.forward_from(hidden, level)) + self.pos_embed  # type: ignore[no-any-return]

    def _through(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        for block in self.blocks[start:stop]:
            tokens = block(tokens)
        return tokens

    def level_of(self, name: str) -> int:
        """The grid encoder's own; projection and positions are part of the first Transformer block."""
        if name.startswith("cnn."):
            return self.cnn.level_of(name.removeprefix("cnn."))
        block = re.match(r"blocks\.(\d+)\.", name)
        if block:
            return self.cnn.levels + int(block.group(1)) + 1
        return self.levels if name.startswith("norm.") else self.cnn.levels + 1

    def frozen_config(self, level: int) -> EncoderConfig:
        """The grid's encoder alone, up to its last level: its features may be cached already."""
        return self.cnn.frozen_config(level) if level <= self.cnn.levels else self.config

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the grid's encoder."""
        return {f"cnn.{name}": tensor for name, tensor in self.cnn.adapted(weights).items()}

    def may_start_fresh(self, name: str) -> bool:
        """The Transformer blocks, and what the grid's encoder may lack."""
        return not name.startswith("cnn.") or self.cnn.may_start_fresh(name.removeprefix("cnn."))

    def for_export(self) -> nn.Module:
        """The same over the grid's encoder as that is exported."""
        return _ExportedHybrid(self)


class _ExportedHybrid(nn.Module):
    def __init__(self, hybrid: Hybrid) -> None:
        super().__init__()
        self.cnn = hybrid.cnn.for_export()
        self.projection, self.norm, self.blocks = hybrid.projection, hybrid.norm, hybrid.blocks
        self.register_buffer("pos_embed", hybrid.pos_embed.detach())
        self.pos_embed: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.projection(self.cnn(pixels)) + self.pos_embed
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)  # type: ignore[no-any-return]
