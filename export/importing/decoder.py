"""One Transformer decoder for all families; what they differ in are facts, not code.

Shape legend:
    - B: pictures, K: beams, R: rows (B * K), L: new tokens, T: all tokens so far, N: image tokens, H: heads,
      D: width of one head, W: decoder width, V: vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from kiloword.export.graphs import sequence_logits
from kiloword.runtime.manifest import PAST_LENGTH_AXIS, GraphSpec, TensorSpec
from kiloword.train.models.attention import KeyValue, attend, merge_heads, self_attend, split_heads

DECODER_FILE = "decoder.onnx"
_TANH_GELUS = ("NewGELUActivation", "GELUTanh", "FastGELUActivation")
Image = Literal["cross", "prefix"]
"""How a decoder sees the picture: by cross-attention, or as the beginning of its own sequence."""


@dataclass(frozen=True)
class Projections:
    """The linear layers of one attention; ``query`` yields what softmax(QK^T / sqrt(D)) expects."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear


@dataclass(frozen=True)
class BlockParts:
    """What one block of a checkpoint is made of."""

    attention: Projections
    attention_norm: nn.Module
    cross: Projections | None
    cross_norm: nn.Module | None
    first: nn.Linear
    activation: Callable[[Tensor], Tensor]
    second: nn.Linear
    mlp_norm: nn.Module


class Block(nn.Module):
    """Self-attention, cross-attention where there is any, and a feed-forward part.

    Pre-norm computes x + part(norm(x)), post-norm norm(x + part(x)).
    """

    def __init__(self, parts: BlockParts, heads: int, *, pre_norm: bool) -> None:
        super().__init__()
        self.heads, self.pre_norm = heads, pre_norm
        self.query, self.key, self.value = parts.attention.query, parts.attention.key, parts.attention.value
        self.out, self.attention_norm = parts.attention.out, parts.attention_norm
        self.first, self.second, self.mlp_norm = parts.first, parts.second, parts.mlp_norm
        self.activation = one_operator(parts.activation)
        self.has_cross = parts.cross is not None
        if parts.cross is not None and parts.cross_norm is not None:
            self.cross_query, self.cross_out = parts.cross.query, parts.cross.out
            self.cross_key, self.cross_value = parts.cross.key, parts.cross.value
            self.cross_norm = parts.cross_norm

    def image_key_value(self, features: Tensor) -> KeyValue:
        """Keys and values of cross-attention: (B, N, C) -> two of (B, H, N, D). Once for each picture."""
        return split_heads(self.cross_key(features), self.heads), split_heads(
            self.cross_value(features), self.heads
        )

    def read_image(self, hidden: Tensor) -> tuple[Tensor, KeyValue]:
        """The block over image tokens that are the beginning of the sequence and all see each other.

        Args:
            hidden: (B, N, W).

        Returns:
            The new hidden state (B, N, W), and its keys and values, each (B, H, N, D).
        """
        before = self._before(self.attention_norm, hidden)
        mixed, image = self_attend(self.query(before), self.key(before), self.value(before), self.heads)
        hidden = self._after(self.attention_norm, hidden, self.out(mixed))
        return self._feed_forward(hidden), image

    def forward(
        self, hidden: Tensor, image: KeyValue, past: KeyValue, mask: Tensor
    ) -> tuple[Tensor, KeyValue, Tensor | None]:
        """One block over the new tokens.

        Args:
            hidden: (R, L, W).
            image: the picture's keys and values, each (B, H, N, D).
            past: keys and values of earlier tokens, each (R, H, T - L, D).
            mask: boolean (L, T), True where a new token may look.

        Returns:
            The new hidden state (R, L, W), keys and values of all tokens, each (R, H, T, D), and the queries
            of cross-attention (R, L, W).
        """
        before = self._before(self.attention_norm, hidden)
        query, key, value = self.query(before), self.key(before), self.value(before)
        looks: Tensor | None = None
        if not self.has_cross:
            mixed, present = attend_prefix(query, key, value, self.heads, image, past, mask)
            hidden = self._after(self.attention_norm, hidden, self.out(mixed))
            return self._feed_forward(hidden), present, looks
        mixed, present = self_attend(query, key, value, self.heads, mask=mask, past=past)
        hidden = self._after(self.attention_norm, hidden, self.out(mixed))
        looks = self.cross_query(self._before(self.cross_norm, hidden))
        seen = self.cross_out(look_at_image(looks, self.heads, image))
        return self._feed_forward(self._after(self.cross_norm, hidden, seen)), present, looks

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        mixed = self.second(self.activation(self.first(self._before(self.mlp_norm, hidden))))
        return self._after(self.mlp_norm, hidden, mixed)

    def _before(self, norm: nn.Module, hidden: Tensor) -> Tensor:
        return norm(hidden) if self.pre_norm else hidden

    def _after(self, norm: nn.Module, hidden: Tensor, mixed: Tensor) -> Tensor:
        total = hidden + mixed
        return total if self.pre_norm else norm(total)


def look_at_image(query: Tensor, heads: int, image: KeyValue) -> Tensor:
    """Cross-attention; all rows of a picture are query rows of one product, so its keys are never copied.

    Args:
        query: (R, L, W).
        heads: divides W.
        image: keys and values, each (B, H, N, D).

    Returns:
        (R, L, W).
    """
    rows, length, width = query.shape
    queries = query.reshape(image[0].shape[0], -1, heads, width // heads).transpose(1, 2)
    return attend(queries, *image).transpose(1, 2).reshape(rows, length, width)


def attend_prefix(
    query: Tensor, key: Tensor, value: Tensor, heads: int, image: KeyValue, past: KeyValue, mask: Tensor
) -> tuple[Tensor, KeyValue]:
    """Self-attention over a picture's tokens and then the text's, as one softmax over both.

    The picture's keys and values are shared by its beams; a cache that held them would be copied for each
    beam at each step.

    Args:
        query: (R, L, W).
        key: (R, L, W) of the new tokens.
        value: (R, L, W) of the new tokens.
        heads: divides W.
        image: each (B, H, N, D); every text token sees all of them.
        past: each (R, H, T - L, D).
        mask: boolean (L, T).

    Returns:
        (R, L, W), and keys and values of the text, each (R, H, T, D).
    """
    rows, length = query.shape[:2]
    pictures, _, tokens, head_width = image[0].shape
    keys = torch.cat([past[0], split_heads(key, heads)], dim=2)
    values = torch.cat([past[1], split_heads(value, heads)], dim=2)
    query = split_heads(query * head_width**-0.5, heads)  # (R, H, L, D)
    on_text = (query @ keys.transpose(2, 3)).masked_fill(~mask, torch.finfo(query.dtype).min)
    grouped = query.reshape(pictures, -1, heads, length, head_width).transpose(1, 2)
    grouped = grouped.reshape(pictures, heads, -1, head_width)  # (B, H, K * L, D)
    on_image = grouped @ image[0].transpose(2, 3)
    on_image = on_image.reshape(pictures, heads, -1, length, tokens).transpose(1, 2)
    on_image = on_image.reshape(rows, heads, length, tokens)
    weights = torch.cat([on_image, on_text], dim=3).softmax(dim=3)
    from_image, from_text = weights[..., :tokens], weights[..., tokens:]
    from_image = from_image.reshape(pictures, -1, heads, length, tokens).transpose(1, 2)
    seen = from_image.reshape(pictures, heads, -1, tokens) @ image[1]
    seen = seen.reshape(pictures, heads, -1, length, head_width).transpose(1, 2)
    mixed = seen.reshape(rows, heads, length, head_width) + from_text @ values
    return merge_heads(mixed), (keys, values)


class Positions(nn.Module):
    """What tells the place of a token: a learned table.

    Args:
        table: float (places, W).
        padding: as in RoBERTa, the id of the padding token; it has a place of its own, and all others start
            after it. ``None``: places are counted from 0.
    """

    def __init__(self, table: Tensor, padding: int | None = None) -> None:
        super().__init__()
        self.embedding = look_up(table)
        self.padding = padding

    @property
    def longest(self) -> int:
        """How many tokens can be read."""
        return self.embedding.num_embeddings - (0 if self.padding is None else self.padding + 1)

    def forward(self, input_ids: Tensor, past_length: int) -> Tensor:
        """The part of the embedding that tells the place: (R, L) ids after ``past_length`` others."""
        length = input_ids.shape[1]
        if self.padding is None:
            places = torch.arange(past_length, past_length + length, device=input_ids.device)
        else:
            counted = (input_ids != self.padding).to(torch.int64)
            places = (counted.cumsum(dim=1) + past_length) * counted + self.padding
        return self.embedding(places)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class DecoderParts:
    """What a checkpoint's decoder is made of."""

    words: Tensor
    """(V, W): embedding of tokens as it is added to that of places, any scale multiplied in."""
    positions: Positions
    embedding_norm: nn.Module
    blocks: Sequence[BlockParts]
    heads: int
    pre_norm: bool
    final: nn.Module
    """Between the last block and the output matrix."""
    output: Tensor
    """(V, W)."""
    output_bias: Tensor | None
    image: Image = "cross"


class TextDecoder(nn.Module):
    """Tokens and a picture's keys and values to the next token's logits."""

    def __init__(self, parts: DecoderParts) -> None:
        super().__init__()
        self.heads, self.image = parts.heads, parts.image
        self.words = look_up(parts.words)
        self.positions = parts.positions
        self.embedding_norm, self.final = parts.embedding_norm, parts.final
        self.blocks = nn.ModuleList(Block(one, parts.heads, pre_norm=parts.pre_norm) for one in parts.blocks)
        # Often the embedding transposed; exported tied, it would be a Transpose before each product.
        self.register_buffer("output", parts.output.detach().t().contiguous())
        self.output: Tensor
        self.output_bias = parts.output_bias

    @property
    def vocab_size(self) -> int:
        """Number of tokens, V."""
        return self.words.num_embeddings

    @property
    def width(self) -> int:
        """Width of the hidden state, W."""
        return self.words.embedding_dim

    @property
    def longest(self) -> int:
        """Most tokens that can be read."""
        return self.positions.longest

    def image_key_values(self, features: Tensor) -> tuple[Tensor, ...]:
        """What the decoder asks of a picture: (B, N, C) -> for each block key and value (B, H, N, D)."""
        found: list[Tensor] = []
        for block in self.blocks:
            if self.image == "cross":
                found.extend(block.image_key_value(features))  # type: ignore[operator]
            else:
                features, pair = block.read_image(features)  # type: ignore[operator]
                found.extend(pair)
        return tuple(found)

    def forward(self, input_ids: Tensor, beam_rows: Tensor, *image_and_past: Tensor) -> tuple[Tensor, ...]:
        """Reads new tokens.

        Args:
            input_ids: int64 (B, K, L).
            beam_rows: int64 (B, K), the row of the past that each hypothesis continues.
            image_and_past: keys and values of the picture, then of earlier tokens, for each block.

        Returns:
            logits (B, K, V) of the last position; keys and values of all tokens; with cross-attention its
            queries; logits (B, K, L, V) of each position.
        """
        count = 2 * len(self.blocks)
        image, past = image_and_past[:count], image_and_past[count:]
        rows, tokens = beam_rows.flatten(), input_ids.flatten(0, 1)
        continued = [tensor.index_select(0, rows) for tensor in past]
        start, length = past[0].shape[2], input_ids.shape[2]
        places = torch.arange(start, start + length, device=input_ids.device)
        mask = torch.arange(start + length, device=input_ids.device)[None, :] <= places[:, None]
        hidden = self.embedding_norm(self.words(tokens) + self.positions(tokens, start))
        states: list[Tensor] = []
        queries: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            pair = slice(2 * index, 2 * index + 2)
            hidden, present, query = block(hidden, image[pair], continued[pair], mask)
            states.extend(present)
            queries += [] if query is None else [query]
        of_all = self.final(hidden) @ self.output
        if self.output_bias is not None:
            of_all = of_all + self.output_bias
        of_all = of_all.reshape(*input_ids.shape, -1)
        return (of_all[:, :, -1], *states, *queries, of_all)

    def image_specs(self, image_tokens: int) -> list[TensorSpec]:
        """The tensors of `image_key_values`."""
        axes = ("batch_size", self.heads, image_tokens, self.width // self.heads)
        prefix = "cross_key_values" if self.image == "cross" else "image_key_values"
        return [TensorSpec(f"{prefix}.{name}", "context", "float32", axes) for name in self._pairs()]

    def spec(self, image_tokens: int) -> GraphSpec:
        """What `decoder.onnx` takes and gives."""
        head_width = self.width // self.heads
        past_axes = ("past_rows", self.heads, PAST_LENGTH_AXIS, head_width)
        axes = ("rows", self.heads, "total_sequence_length", head_width)
        past = [
            TensorSpec(f"past_key_values.{name}", "cache", "float32", past_axes) for name in self._pairs()
        ]
        present = [
            TensorSpec(f"present.{name}", "cache", "float32", axes, feeds=f"past_key_values.{name}")
            for name in self._pairs()
        ]
        looks = [
            TensorSpec(f"cross_query.{i}", "cross_query", "float32", ("rows", "sequence_length", self.width))
            for i in range(len(self.blocks) if self.image == "cross" else 0)
        ]
        ids = TensorSpec("input_ids", "token_ids", "int64", ("batch_size", "num_beams", "sequence_length"))
        rows = TensorSpec("beam_rows", "beam_rows", "int64", ("batch_size", "num_beams"))
        logits = TensorSpec("logits", "logits", "float32", ("batch_size", "num_beams", self.vocab_size))
        inputs = (ids, rows, *self.image_specs(image_tokens), *past)
        checks = sequence_logits(self.vocab_size)
        return GraphSpec(DECODER_FILE, inputs, (logits, *present, *looks, checks))

    def _pairs(self) -> list[str]:
        return [f"{index}.{kind}" for index in range(len(self.blocks)) for kind in ("key", "value")]


def one_operator(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """An activation that transformers writes out in seven operators as the one that ONNX has for it."""
    if type(activation).__name__ in _TANH_GELUS:
        return partial(nn.functional.gelu, approximate="tanh")
    return activation


def look_up(table: Tensor) -> nn.Embedding:
    """An embedding that shares the checkpoint's memory: float (rows, width)."""
    rows, width = table.shape
    layer = nn.Embedding(rows, width, device="meta")
    layer.weight = nn.Parameter(table.detach(), requires_grad=False)
    return layer


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer that shares the checkpoint's memory.

    Args:
        weight: (out, in).
        bias: (out,), or ``None``.
    """
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer
