"""Transformer decoder that writes a caption while it looks at the picture: pre-norm, or post-norm.

Shape legend:
    - B: pictures, R: rows (captions in training, pictures * beams when generating), L: new tokens,
      T: all tokens so far, N: image tokens, H: heads, D: width of one head, W: decoder width, V: vocabulary
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from kiloword.runtime.manifest import PAST_LENGTH_AXIS, AttentionSpec, TensorSpec
from kiloword.train.checks import not_a_share, too_small
from kiloword.train.models.attention import (
    FeedForward,
    KeyValue,
    attend,
    self_attend,
    split_heads,
)
from kiloword.train.models.decoder import (
    ContextSpec,
    Decoder,
    DecoderConfig,
    Reading,
    StateSpec,
    Tensors,
    start_from_normal,
)
from kiloword.train.models.encoder import FeatureShape
from kiloword.train.models.positions import sinusoidal


@dataclass(frozen=True)
class TransformerConfig(DecoderConfig):
    """What a Transformer decoder is made of. ``recipes/vaswani_base.toml`` is the original one."""

    kind: Literal["transformer"] = field(default="transformer", kw_only=True)
    width: int = 256
    """Width of a word's hidden state."""
    depth: int = 3
    """Number of blocks."""
    heads: int = 4
    """Attention heads, in self-attention and cross-attention; must divide ``width``."""
    max_length: int = 40
    """Most tokens in a caption, ``<bos>`` included: the number of positions."""
    dropout: float = 0.2
    """Dropout on embeddings, attention weights and the outputs of each part, in training."""
    feed_forward_width: int | None = None
    """Width inside the feed-forward parts; by default four times ``width``."""
    norm: Literal["pre", "post"] = "pre"
    """Before each part, or after its sum with what went in, as in the original."""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """What tells the place of a word."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Inside the feed-forward parts."""
    scale_embedding: bool = False
    """Whether word embeddings are multiplied by the square root of ``width`` before positions are added."""

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def longest(self) -> int:
        """There is a position for each token."""
        return self.max_length

    def build(self, vocab_size: int, image: FeatureShape) -> TransformerDecoder:
        """A Transformer decoder with fresh weights."""
        return TransformerDecoder(self, vocab_size, image)

    def describe(self) -> str:
        """The architecture in a few words."""
        return f"Transformer ({self.norm}-norm), width {self.width}, {self.depth} blocks"

    def problems(self) -> list[str]:
        """Values that make no sense."""
        found = too_small(self, 1, "width", "depth", "heads", "max_length")
        if self.feed_forward_width is not None:
            found += too_small(self, 1, "feed_forward_width")
        if not found and self.width % self.heads:
            found.append(f"heads {self.heads} does not divide width {self.width}")
        if self.positions == "sinusoidal" and self.width % 2:
            found.append(f"positions 'sinusoidal' need an even width, found {self.width}")
        return found + not_a_share(self, "dropout")


class DecoderBlock(nn.Module):
    """Masked self-attention, cross-attention over the image and a feed-forward part.

    Each part has a norm: pre-norm computes x + part(norm(x)), the original norm(x + part(x)).
    """

    def __init__(self, config: TransformerConfig, image_width: int) -> None:
        super().__init__()
        self.config = config
        self.self_norm = nn.LayerNorm(config.width)
        self.self_qkv = nn.Linear(config.width, 3 * config.width)
        self.self_out = nn.Linear(config.width, config.width)
        self.cross_norm = nn.LayerNorm(config.width)
        self.cross_query = nn.Linear(config.width, config.width)
        self.cross_key_value = nn.Linear(image_width, 2 * config.width)
        self.cross_out = nn.Linear(config.width, config.width)
        self.mlp_norm = nn.LayerNorm(config.width)
        inner = config.feed_forward_width or 4 * config.width
        self.mlp = FeedForward(config.width, inner, config.dropout, config.activation)
        self.dropout = nn.Dropout(config.dropout)

    def image_key_value(self, features: Tensor) -> KeyValue:
        """Keys and values of the image: (B, N, image_width) -> two of (B, H, N, D). Once for each image."""
        key, value = self.cross_key_value(features).chunk(2, dim=-1)
        return split_heads(key, self.config.heads), split_heads(value, self.config.heads)

    def forward(
        self, hidden: Tensor, image: KeyValue | None, past: KeyValue | None, mask: Tensor
    ) -> tuple[Tensor, KeyValue, Tensor | None]:
        """One block over the new tokens.

        Args:
            hidden: (R, L, W).
            image: keys and values of the image, each (B, H, N, D); R is a multiple of B. ``None``: there is
                no picture, and cross-attention takes no part.
            past: keys and values of earlier tokens, each (R, H, T - L, D), or ``None`` when there are none.
            mask: boolean (L, T), True where a new token may look.

        Returns:
            The new hidden state (R, L, W), keys and values of all tokens, each (R, H, T, D), and the queries
            of cross-attention (R, L, W): with the image's keys they say where each token looked.
        """
        mixed, present = self._look_back(self._before(self.self_norm, hidden), past, mask)
        hidden = self._after(self.self_norm, hidden, mixed)
        query: Tensor | None = None
        if image is not None:
            query = self.cross_query(self._before(self.cross_norm, hidden))
            hidden = self._after(self.cross_norm, hidden, self._look_at_image(query, image))
        mixed = self.mlp(self._before(self.mlp_norm, hidden))
        return self._after(self.mlp_norm, hidden, mixed), present, query

    def _before(self, norm: nn.Module, hidden: Tensor) -> Tensor:
        """What a part reads."""
        return norm(hidden) if self.config.norm == "pre" else hidden

    def _after(self, norm: nn.Module, hidden: Tensor, mixed: Tensor) -> Tensor:
        """What a part leaves behind: its result added to what went in."""
        total = hidden + self.dropout(mixed)
        return total if self.config.norm == "pre" else norm(total)  # type: ignore[no-any-return]

    def _look_back(self, hidden: Tensor, past: KeyValue | None, mask: Tensor) -> tuple[Tensor, KeyValue]:
        """Masked self-attention over the earlier tokens and the new ones."""
        query, key, value = self.self_qkv(hidden).chunk(3, dim=-1)
        mixed, present = self_attend(
            query, key, value, self.config.heads, mask=mask, past=past, dropout=self._attention_dropout
        )
        return self.self_out(mixed), present

    def _look_at_image(self, query: Tensor, image: KeyValue) -> Tensor:
        """Cross-attention. All rows of an image are query rows of one product: its keys are never copied."""
        rows, length, width = query.shape
        pictures, heads = image[0].shape[:2]
        query = query.reshape(pictures, -1, heads, width // heads)  # (B, R / B * L, H, D)
        mixed = attend(query.transpose(1, 2), *image, dropout=self._attention_dropout)
        merged = mixed.transpose(1, 2).reshape(rows, length, width)
        return self.cross_out(merged)  # type: ignore[no-any-return]

    @property
    def _attention_dropout(self) -> float:
        return self.config.dropout if self.training else 0.0


class TransformerDecoder(Decoder):
    """Token embedding (tied with the output matrix), positions, blocks, and for pre-norm a final norm.

    Source: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762; pre-norm: Xiong et al., "On Layer
        Normalization in the Transformer Architecture", arXiv 2002.04745.
    """

    token_by_token = False

    def __init__(self, config: TransformerConfig, vocab_size: int, image: FeatureShape) -> None:
        super().__init__()
        self.config: TransformerConfig = config
        self.vocab_size = vocab_size
        self.image = image
        width = config.width
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding: nn.Module = nn.Embedding(config.max_length, width)
        self.blocks = nn.ModuleList(DecoderBlock(config, image.channels) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width) if config.norm == "pre" else nn.Identity()
        self.output_bias = nn.Parameter(torch.zeros(vocab_size))
        self.dropout = nn.Dropout(config.dropout)
        self.apply(start_from_normal)
        if config.positions == "sinusoidal":
            self.position_embedding = _FixedEmbedding(sinusoidal(config.max_length, width))
        if config.scale_embedding:  # the same size as without scaling, once it is multiplied
            nn.init.normal_(self.token_embedding.weight, std=width**-0.5)

    @property
    def output_weight(self) -> Tensor:
        """The embedding's matrix."""
        return self.token_embedding.weight

    def image_context(self, features: Tensor) -> Tensors:
        """Key and value of the image for each block: (B, N, C) -> 2 * depth of (B, H, N, D)."""
        pairs = [block.image_key_value(features) for block in self.blocks]  # type: ignore[operator]
        return tuple(tensor for pair in pairs for tensor in pair)

    def read(self, input_ids: Tensor, context: Tensors, past: Tensors | None = None) -> Reading:
        """Reads new tokens; the state is key and value of all tokens for each block, (R, H, T, D).

        An empty context: there is no picture.
        """
        length = input_ids.shape[1]
        start = past[0].shape[2] if past else 0
        positions = torch.arange(start, start + length, device=input_ids.device)
        mask = torch.arange(start + length, device=input_ids.device)[None, :] <= positions[:, None]
        hidden = self.dropout(self._embed(input_ids) + self.position_embedding(positions))
        images, pasts = _pairs(context), _pairs(past or ())
        state: list[Tensor] = []
        queries: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            hidden, present, query = block(
                hidden, images[index] if images else None, pasts[index] if pasts else None, mask
            )
            state.extend(present)
            queries += [] if query is None else [query]
        return Reading(self.norm(hidden), tuple(state), tuple(queries))

    def _embed(self, input_ids: Tensor) -> Tensor:
        embedded: Tensor = self.token_embedding(input_ids)
        return embedded * math.sqrt(self.config.width) if self.config.scale_embedding else embedded

    def read_text(self, input_ids: Tensor) -> Tensor:
        """Without cross-attention: what is left is a decoder-only language model."""
        return self.read(input_ids, ()).hidden

    def looks(self, name: str) -> bool:
        """Cross-attention and its norm."""
        return ".cross_" in name

    def context_specs(self) -> tuple[ContextSpec, ...]:
        """Keys and values of every cross-attention."""
        axes = (self.config.heads, self.image.tokens, self.config.head_width)
        return tuple(ContextSpec(f"cross_key_values.{name}", axes) for name in self._pair_names())

    def state_specs(self) -> tuple[StateSpec, ...]:
        """Keys and values of the words so far."""
        heads, head_width = self.config.heads, self.config.head_width
        past_axes = ("past_rows", heads, PAST_LENGTH_AXIS, head_width)
        axes = ("rows", heads, "total_sequence_length", head_width)
        specs = []
        for name in self._pair_names():
            past = TensorSpec(f"past_key_values.{name}", "cache", "float32", past_axes)
            present = TensorSpec(f"present.{name}", "cache", "float32", axes, feeds=past.name)
            specs.append(StateSpec(past, present))
        return tuple(specs)

    def look_specs(self) -> tuple[TensorSpec, ...]:
        """The queries of every cross-attention, which the graph computes anyway.

        Attention weights as an output would be computed in every step, for onnxruntime runs a graph as a
        whole, whatever is fetched.
        """
        axes = ("rows", "sequence_length", self.config.width)
        return tuple(
            TensorSpec(f"cross_query.{index}", "cross_query", "float32", axes)
            for index in range(self.config.depth)
        )

    def attention_spec(self) -> AttentionSpec:
        """All blocks, all heads."""
        image = self.image
        queries = {spec.name: f"cross_key_values.{i}.key" for i, spec in enumerate(self.look_specs())}
        return AttentionSpec(image.rows, image.columns, image.leading, queries)

    def _pair_names(self) -> list[str]:
        return [f"{index}.{kind}" for index in range(self.config.depth) for kind in ("key", "value")]


class _FixedEmbedding(nn.Module):
    """A table that does not learn and is not stored."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)
        self.table: Tensor

    def forward(self, index: Tensor) -> Tensor:
        return self.table[index]


def _pairs(tensors: Tensors) -> list[KeyValue]:
    return list(zip(tensors[::2], tensors[1::2], strict=True))
