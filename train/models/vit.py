"""Vision Transformer encoder, with timm's tensor names so that its weights load as they are.

Shape legend:
    - B: batch, N: tokens (class token first, then patches row by row), W: width, P: patch size in pixels
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from kiloword.train.checks import not_a_share, too_small
from kiloword.train.models.attention import FeedForward, self_attend
from kiloword.train.models.encoder import Encoder, EncoderConfig, FeatureShape
from kiloword.train.models.positions import (
    ImagePositions,
    fixed_positions,
    interpolate_positions,
    position_problems,
)


@dataclass(frozen=True)
class VitConfig(EncoderConfig):
    """What a ViT is made of. The defaults are ViT-Tiny/16 at 224 pixels."""

    kind: Literal["vit"] = field(default="vit", kw_only=True)
    patch_size: int = 16
    """Height and width of a patch in pixels; must divide ``image_size``."""
    width: int = 192
    """Width of a token."""
    depth: int = 12
    """Number of Transformer blocks."""
    heads: int = 3
    """Attention heads; must divide ``width``."""
    merge_after: int = 0
    """Blocks after which every 2 x 2 patches become one token, which quarters the work of the blocks that
    follow; 0: never."""
    drop_path: float = 0.0
    """Probability that the last block is skipped in training, earlier ones less (stochastic depth)."""
    positions: ImagePositions = "learned"
    """Learned, or fixed sinusoids that count patches or tell row and column."""

    @property
    def levels(self) -> int:
        """Each block can be frozen after those below it."""
        return self.depth

    @property
    def grid_size(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    def grid_at(self, level: int) -> int:
        """Patches, or merged patches, along one side after ``level`` blocks."""
        return self.grid_size // 2 if 0 < self.merge_after < level else self.grid_size

    def build(self) -> VisionTransformer:
        """A ViT with fresh weights."""
        return VisionTransformer(self)

    def describe(self) -> str:
        """The architecture in a few words."""
        return (
            f"ViT, {self.image_size} x {self.image_size} pixels, patches of {self.patch_size}, "
            f"width {self.width}, {self.depth} blocks"
        )

    def problems(self) -> list[str]:
        """Values that make no sense."""
        found = too_small(self, 1, "patch_size", "width", "depth", "heads")
        found = super().problems() + found + not_a_share(self, "drop_path")
        if found:
            return found
        if self.image_size % self.patch_size:
            found.append(f"patch_size {self.patch_size} does not divide image_size {self.image_size}")
        if self.width % self.heads:
            found.append(f"heads {self.heads} does not divide width {self.width}")
        if not 0 <= self.merge_after < self.depth:
            found.append(f"merge_after: expected 0 or more and less than depth, found {self.merge_after}")
        if self.merge_after and self.grid_size % 2:
            found.append(f"merge_after: expected an even number of patches on a side, found {self.grid_size}")
        return found + position_problems(self.positions, self.width)


class PatchEmbedding(nn.Module):
    """Cuts a uint8 picture into patches and projects each to a token; normalisation happens here.

    The weight has the shape of timm's convolution (W, 3, P, P) but is applied as one matrix product, which
    quantizes like every other product of the network and needs no convolution kernel.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.proj = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        mean, std = torch.tensor(config.pixel_mean), torch.tensor(config.pixel_std)
        self.register_buffer("scale", 1.0 / (255.0 * std), persistent=False)
        self.register_buffer("shift", mean / std, persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (B, height, width, 3) -> float (B, patches, W)."""
        weight, bias = self.folded()
        return self.cut(pixels, self.patch_size).to(weight.dtype) @ weight.t() + bias

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (W, P * P * 3) and bias (W,) that take raw bytes: W (x * scale - shift) + b, multiplied out.

        Raw bytes then meet one matrix, and an int8 graph can take the uint8 pixels without any rounding.
        """
        weight = self.proj.weight.permute(0, 2, 3, 1)  # (W, P, P, 3), the order of the pixels in a patch
        bias: Tensor = self.proj.bias - (weight * self.shift).flatten(1).sum(1)  # type: ignore[operator]
        return (weight * self.scale).flatten(1), bias

    @staticmethod
    def cut(pixels: Tensor, size: int) -> Tensor:
        """(B, height, width, 3) -> (B, patches, P * P * 3), patches row by row."""
        batch, height, width, channels = pixels.shape
        rows, columns = height // size, width // size
        patches = pixels.reshape(batch, rows, size, columns, size, channels).permute(0, 1, 3, 2, 4, 5)
        return patches.reshape(batch, rows * columns, size * size * channels)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value (timm's ``attn``)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, N, W) -> (B, N, W)."""
        query, key, value = self.qkv(hidden).chunk(3, dim=-1)
        mixed, _ = self_attend(query, key, value, self.heads)
        return self.proj(mixed)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm Transformer encoder block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width, 4 * width)
        self.drop_path = drop_path

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, N, W) -> (B, N, W)."""
        hidden = hidden + self._dropped(self.attn(self.norm1(hidden)))
        return hidden + self._dropped(self.mlp(self.norm2(hidden)))

    def _dropped(self, branch: Tensor) -> Tensor:
        """Skips the branch for some pictures of a training batch. Source: Huang et al., arXiv 1603.09382."""
        if not self.training or self.drop_path == 0.0:
            return branch
        keep = 1.0 - self.drop_path
        kept = torch.rand(branch.shape[0], 1, 1, device=branch.device) < keep
        return branch * kept / keep


class TokenMerging(nn.Module):
    """Makes one token of every 2 x 2 patches, at first their mean; the class token stays.

    Source: the merging layer of Liu et al., "Swin Transformer", arXiv 2103.14030, without its norm and its
        wider output, so that it can be put between the blocks of a trained ViT.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, width, bias=False)
        with torch.no_grad():
            self.reduction.weight.copy_(torch.eye(width).repeat(1, 4) / 4)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, 1 + side * side, W) -> (B, 1 + side * side / 4, W)."""
        batch, tokens, width = hidden.shape
        side = math.isqrt(tokens - 1)
        grid = hidden[:, 1:].reshape(batch, side // 2, 2, side // 2, 2, width).transpose(2, 3)
        merged = self.reduction(grid.reshape(batch, -1, 4 * width))
        return torch.cat([hidden[:, :1], merged], dim=1)


class VisionTransformer(Encoder):
    """ViT with class token, pre-norm blocks and a final norm; positions are learned or fixed.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config: VitConfig = config
        side, width = config.grid_size, config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed: Tensor
        if config.positions == "learned":
            self.pos_embed = nn.Parameter(torch.randn(1, 1 + side * side, width) * 0.02)
        else:
            fixed = fixed_positions(config.positions, side, side, width, leading=1)
            self.register_buffer("pos_embed", fixed[None], persistent=False)
        self.patch_embed = PatchEmbedding(config)
        rates = torch.linspace(0, config.drop_path, config.depth).tolist()
        self.blocks = nn.ModuleList(Block(width, config.heads, rate) for rate in rates)
        self.merge = TokenMerging(width) if config.merge_after else None
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @property
    def output(self) -> FeatureShape:
        """The class token, then one token for each patch or merged patch."""
        side = self.config.grid_at(self.levels)
        return FeatureShape(self.config.width, side, side, leading=1)

    def hidden_shape(self, level: int) -> tuple[int, ...]:
        """(tokens, W) after ``level`` blocks."""
        return 1 + self.config.grid_at(level) ** 2, self.config.width

    def forward_until(self, pixels: Tensor, level: int) -> Tensor:
        """The hidden state after ``level`` blocks: 0 (embedded patches) to all of them, before the norm."""
        hidden = self.with_positions(self.patch_embed(pixels))
        return self._through(hidden, 0, level)

    def with_positions(self, patches: Tensor) -> Tensor:
        """Puts the class token first and adds positions: (B, N - 1, W) -> (B, N, W)."""
        start = self.cls_token.expand(patches.shape[0], -1, -1)
        return torch.cat([start, patches], dim=1) + self.pos_embed

    def forward_from(self, hidden: Tensor, level: int) -> Tensor:
        """The features, from the hidden state after ``level`` blocks: (B, N, W) -> (B, N, W)."""
        return self.norm(self._through(hidden, level, self.levels))  # type: ignore[no-any-return]

    def _through(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """Runs the blocks from ``start`` to before ``stop``, merging tokens where that is due."""
        for index in range(start, stop):
            if self.merge is not None and index == self.config.merge_after:
                hidden = self.merge(hidden)
            hidden = self.blocks[index](hidden)
        return hidden

    def level_of(self, name: str) -> int:
        """0 for the embedding, then the number of the block; merging is part of the block after it."""
        block = re.match(r"blocks\.(\d+)\.", name)
        if block:
            return int(block.group(1)) + 1
        if name.startswith("merge."):
            return self.config.merge_after + 1
        return self.levels if name.startswith("norm.") else 0

    def rate_level(self, name: str) -> int:
        """Merging starts fresh in a trained ViT and learns like the last block."""
        return self.levels if name.startswith("merge.") else self.level_of(name)

    def may_start_fresh(self, name: str) -> bool:
        """No published weights merge tokens."""
        return name.startswith("merge.")

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm without the classifier; positions resampled for another size."""
        found = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
        learned = found.pop("pos_embed", None)
        if learned is not None and self.config.positions == "learned":
            side, wanted = self.config.grid_size, self.pos_embed.shape
            is_square = learned.ndim == 3 and math.isqrt(learned.shape[1] - 1) ** 2 == learned.shape[1] - 1
            if is_square and learned.shape[1] != wanted[1]:
                learned = interpolate_positions(learned, side, side, leading=1)
            found["pos_embed"] = learned
        return found

    def for_export(self) -> nn.Module:
        """The same with the pixels' normalisation multiplied into the patch projection."""
        return FoldedVisionTransformer(self)


class FoldedVisionTransformer(nn.Module):
    """A ViT whose patch projection takes raw bytes by one constant matrix."""

    def __init__(self, encoder: VisionTransformer) -> None:
        super().__init__()
        weight, bias = encoder.patch_embed.folded()
        self.encoder = encoder
        # Detached, because the exporter asks each tensor for its gradient, and a computed one then warns.
        self.register_buffer("weight", weight.detach().t().contiguous())
        self.register_buffer("bias", bias.detach())
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (B, height, width, 3) -> features (B, N, W)."""
        patches = PatchEmbedding.cut(pixels, self.encoder.config.patch_size).float() @ self.weight + self.bias
        return self.encoder.forward_from(self.encoder.with_positions(patches), 0)
