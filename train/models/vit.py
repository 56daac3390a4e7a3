"""Vision Transformer encoder, with timm's tensor names so that its weights load as they are.

Shape legend:
    - B: batch, N: tokens (class token first, then patches row by row), W: width, P: patch size in pixels
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kiloword.train.models.attention import FeedForward, self_attend


@dataclass(frozen=True)
class VitConfig:
    """What a ViT is made of. The defaults are ViT-Tiny/16 at 224 pixels."""

    image_size: int = 224
    """Height and width of the picture in pixels."""
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
    pixel_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Mean of each colour channel, on the scale 0..1, subtracted inside the model."""
    pixel_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    """Standard deviation of each colour channel, divided by inside the model."""

    @property
    def grid_size(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Tokens that the encoder returns: the class token and one for each patch or merged patch."""
        return self.tokens_before(self.depth)

    def tokens_before(self, block: int) -> int:
        """Tokens in the hidden state before block number ``block``, which `forward_until` returns."""
        merged = 0 < self.merge_after < block
        return (self.grid_size // 2 if merged else self.grid_size) ** 2 + 1


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

    def __init__(self, config: VitConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = SelfAttention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = FeedForward(config.width, 4 * config.width)
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


class VisionTransformer(nn.Module):
    """ViT with class token and learned positions, pre-norm blocks and a final norm.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.randn(1, config.tokens_before(0), config.width) * 0.02)
        self.patch_embed = PatchEmbedding(config)
        rates = torch.linspace(0, config.drop_path, config.depth).tolist()
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.merge = TokenMerging(config.width) if config.merge_after else None
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (B, height, width, 3) -> features (B, N, W)."""
        return self.forward_from(self.forward_until(pixels, self.depth), self.depth)

    def forward_until(self, pixels: Tensor, block: int) -> Tensor:
        """The hidden state before block number ``block``, from pixels: what a frozen lower part computes.

        Args:
            pixels: uint8 (B, height, width, 3), RGB.
            block: 0 (embedded patches) to ``depth`` (all blocks, before the final norm).

        Returns:
            (B, N, W) float.
        """
        hidden = self.with_positions(self.patch_embed(pixels))
        return self._through(hidden, 0, block)

    def with_positions(self, patches: Tensor) -> Tensor:
        """Puts the class token first and adds positions: (B, N - 1, W) -> (B, N, W)."""
        start = self.cls_token.expand(patches.shape[0], -1, -1)
        return torch.cat([start, patches], dim=1) + self.pos_embed

    def forward_from(self, hidden: Tensor, block: int) -> Tensor:
        """The features, from the hidden state before block number ``block``: (B, N, W) -> (B, N, W)."""
        return self.norm(self._through(hidden, block, self.depth))  # type: ignore[no-any-return]

    def _through(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """Runs the blocks from ``start`` to before ``stop``, merging tokens where that is due."""
        for index in range(start, stop):
            if self.merge is not None and index == self.config.merge_after:
                hidden = self.merge(hidden)
            hidden = self.blocks[index](hidden)
        return hidden
