"""Pre-norm Transformer decoder that writes a caption while it looks at the picture.

Shape legend:
    - B: pictures, R: rows (captions in training, pictures * beams when generating), L: new tokens,
      T: all tokens so far, N: image tokens, H: heads, D: width of one head, W: decoder width, V: vocabulary
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kiloword.train.models.attention import (
    FeedForward,
    KeyValue,
    attend,
    self_attend,
    split_heads,
)


@dataclass(frozen=True)
class DecoderConfig:
    """What a Transformer decoder is made of."""

    vocab_size: int
    """Number of token ids."""
    image_width: int = 192
    """Width of the encoder's tokens."""
    width: int = 256
    """Width of a word's hidden state."""
    depth: int = 3
    """Number of blocks."""
    heads: int = 4
    """Attention heads, in self-attention and cross-attention; must divide ``width``."""
    max_length: int = 40
    """Most tokens in a caption, bos and eos included: the number of learned positions."""
    dropout: float = 0.2
    """Dropout on embeddings, attention weights and the outputs of each part, in training."""

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


class DecoderBlock(nn.Module):
    """Masked self-attention, cross-attention over the image and a feed-forward part, each pre-norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.self_norm = nn.LayerNorm(config.width)
        self.self_qkv = nn.Linear(config.width, 3 * config.width)
        self.self_out = nn.Linear(config.width, config.width)
        self.cross_norm = nn.LayerNorm(config.width)
        self.cross_query = nn.Linear(config.width, config.width)
        self.cross_key_value = nn.Linear(config.image_width, 2 * config.width)
        self.cross_out = nn.Linear(config.width, config.width)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = FeedForward(config.width, 4 * config.width, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def image_key_value(self, features: Tensor) -> KeyValue:
        """Keys and values of the image: (B, N, image_width) -> two of (B, H, N, D). Once for each image."""
        key, value = self.cross_key_value(features).chunk(2, dim=-1)
        return split_heads(key, self.config.heads), split_heads(value, self.config.heads)

    def forward(
        self,
        hidden: Tensor,
        image: KeyValue,
        past: KeyValue | None,
        mask: Tensor,
        queries: list[Tensor] | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """One block over the new tokens.

        Args:
            hidden: (R, L, W).
            image: keys and values of the image, each (B, H, N, D); R is a multiple of B.
            past: keys and values of earlier tokens, each (R, H, T - L, D), or ``None`` when there are none.
            mask: boolean (L, T), True where a new token may look.
            queries: gets this block's cross-attention queries (R, L, W), if given.

        Returns:
            The new hidden state (R, L, W), and keys and values of all tokens, each (R, H, T, D).
        """
        mixed, present = self._look_back(self.self_norm(hidden), past, mask)
        hidden = hidden + self.dropout(mixed)
        hidden = hidden + self.dropout(self._look_at_image(self.cross_norm(hidden), image, queries))
        return hidden + self.dropout(self.mlp(self.mlp_norm(hidden))), present

    def _look_back(self, hidden: Tensor, past: KeyValue | None, mask: Tensor) -> tuple[Tensor, KeyValue]:
        """Masked self-attention over the earlier tokens and the new ones."""
        query, key, value = self.self_qkv(hidden).chunk(3, dim=-1)
        mixed, present = self_attend(
            query, key, value, self.config.heads, mask=mask, past=past, dropout=self._attention_dropout
        )
        return self.self_out(mixed), present

    def _look_at_image(self, hidden: Tensor, image: KeyValue, queries: list[Tensor] | None) -> Tensor:
        """Cross-attention. All rows of an image are query rows of one product: its keys are never copied."""
        rows, length, width = hidden.shape
        pictures, heads = image[0].shape[:2]
        query = self.cross_query(hidden)
        if queries is not None:
            queries.append(query)
        query = query.reshape(pictures, -1, heads, width // heads)  # (B, R / B * L, H, D)
        mixed = attend(query.transpose(1, 2), *image, dropout=self._attention_dropout)
        merged = mixed.transpose(1, 2).reshape(rows, length, width)
        return self.cross_out(merged)  # type: ignore[no-any-return]

    @property
    def _attention_dropout(self) -> float:
        return self.config.dropout if self.training else 0.0


class TransformerDecoder(nn.Module):
    """Token embedding (tied with the output matrix), learned positions, blocks, final norm."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.max_length, config.width)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = nn.Dropout(config.dropout)
        self.apply(_initialise)

    def image_context(self, features: Tensor) -> list[KeyValue]:
        """Keys and values of the image for each block, computed once: (B, N, image_width) -> depth pairs."""
        return [block.image_key_value(features) for block in self.blocks]  # type: ignore[operator]

    def forward(
        self,
        input_ids: Tensor,
        context: list[KeyValue],
        past: list[KeyValue] | None = None,
        queries: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Hidden states of the new tokens; with ``past``, only the tokens after it are given.

        Args:
            input_ids: int64 (R, L).
            context: what ``image_context`` returned for B pictures; rows of a picture stand together.
            past: keys and values of earlier tokens for each block, each (R, H, T - L, D).
            queries: gets the cross-attention queries (R, L, W) of each block, if given. With the keys in
                ``context`` they say where each token looked, and they are computed anyway.

        Returns:
            Normed hidden states (R, L, W), and keys and values of all tokens for each block.
        """
        length = input_ids.shape[1]
        start = past[0][0].shape[2] if past else 0
        positions = torch.arange(start, start + length, device=input_ids.device)
        mask = torch.arange(start + length, device=input_ids.device)[None, :] <= positions[:, None]
        hidden = self.dropout(self.token_embedding(input_ids) + self.position_embedding(positions))
        present = []
        for index, block in enumerate(self.blocks):
            hidden, keys_values = block(hidden, context[index], past[index] if past else None, mask, queries)
            present.append(keys_values)
        return self.norm(hidden), present

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of each token id: (..., W) -> (..., V). The matrix is the embedding's, transposed."""
        return nn.functional.linear(hidden, self.token_embedding.weight, self.output_bias)


def _initialise(module: nn.Module) -> None:
    """Normal(0, 0.02) weights and zero biases, as GPT-2 starts."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
