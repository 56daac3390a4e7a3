"""Show, Attend and Tell: an LSTM that looks at another part of the picture for each word.

Shape legend:
    - B: pictures, R: rows (R / B of each picture stand together), L: new tokens, N: cells of the grid,
      C: channels of a cell, E: width of a word, W: width of the state, A: width of attention, V: vocabulary

Source: Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention",
    arXiv 1502.03044, the soft, deterministic variant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from kiloword.runtime.manifest import AttentionSpec, TensorSpec
from kiloword.train.checks import not_a_share, too_small
from kiloword.train.models.decoder import (
    ContextSpec,
    Decoder,
    DecoderConfig,
    Reading,
    StateSpec,
    Tensors,
)
from kiloword.train.models.encoder import FeatureShape
from kiloword.train.models.recurrent import (
    AdditiveAttention,
    StateFromImage,
    begin,
    lstm_state_specs,
    lstm_step,
    remember_at_first,
    start_specs,
)


@dataclass(frozen=True)
class ShowAttendTellConfig(DecoderConfig):
    """What Show, Attend and Tell is made of."""

    kind: Literal["show_attend_tell"] = field(default="show_attend_tell", kw_only=True)
    width: int = 512
    """Width of the LSTM's state."""
    word_width: int = 256
    """Width of a word's embedding."""
    attention_width: int = 256
    """Width in which cells and state are compared."""
    dropout: float = 0.3
    """Dropout on words and before the output, in training."""
    attention_penalty: float = 1.0
    """Weight of the doubly stochastic regulariser: a caption should look at each cell once in all."""

    @property
    def longest(self) -> None:
        """An LSTM reads on and on."""
        return

    def build(self, vocab_size: int, image: FeatureShape) -> ShowAttendTell:
        """A decoder with fresh weights."""
        return ShowAttendTell(self, vocab_size, image)

    def describe(self) -> str:
        """The architecture in a few words."""
        return f"LSTM with attention (Show, Attend and Tell), width {self.width}"

    def problems(self) -> list[str]:
        """Values that make no sense."""
        found = too_small(self, 1, "width", "word_width", "attention_width")
        return found + too_small(self, 0, "attention_penalty") + not_a_share(self, "dropout")


class ShowAttendTell(Decoder):
    """LSTM, additive attention over the grid's cells, a gate on what is seen, deep output."""

    token_by_token = True

    def __init__(self, config: ShowAttendTellConfig, vocab_size: int, image: FeatureShape) -> None:
        super().__init__()
        self.config: ShowAttendTellConfig = config
        self.vocab_size = vocab_size
        self.image = image
        width, channels = config.width, image.channels
        self.token_embedding = nn.Embedding(vocab_size, config.word_width)
        self.start = StateFromImage(channels, width)
        self.attention = AdditiveAttention(channels, width, config.attention_width)
        self.gate = nn.Linear(width, 1)
        self.from_word = nn.Linear(config.word_width, 4 * width)
        self.from_image = nn.Linear(channels, 4 * width, bias=False)
        self.from_state = nn.Linear(width, 4 * width, bias=False)
        self.state_output = nn.Linear(width, config.word_width)
        self.image_output = nn.Linear(channels, config.word_width, bias=False)
        self.output = nn.Linear(config.word_width, vocab_size, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(vocab_size))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.token_embedding.weight, std=0.1)
        remember_at_first(self.from_word)

    @property
    def output_weight(self) -> Tensor:
        """The paper's L_o."""
        return self.output.weight

    def image_context(self, features: Tensor) -> Tensors:
        """Keys (B, N, A) and values (B, N, C) of attention, first hidden state and first cell (B, W)."""
        cells = features[:, self.image.leading :]
        return self.attention.keys(cells), cells, *self.start(cells)

    def read(self, input_ids: Tensor, context: Tensors, past: Tensors | None = None) -> Reading:
        """Reads tokens one after the other; the state is (R, W) twice, the looks are alpha (R, L, N)."""
        keys, values = context[:2]
        words: Tensor = self.dropout(self.token_embedding(input_ids))
        hidden, cell = begin(context, past, len(input_ids))
        states, views, looks = [], [], []
        for sums in self.from_word(words).split(1, dim=1):
            weights = self.attention(hidden, keys)
            seen = (weights @ values).flatten(0, 1)[:, None] * self.gate(hidden).sigmoid()
            hidden, cell = lstm_step(sums + self.from_image(seen) + self.from_state(hidden), cell)
            states.append(hidden)
            views.append(seen)
            looks.append(weights.flatten(0, 1))
        told = words + self.state_output(torch.cat(states, 1)) + self.image_output(torch.cat(views, 1))
        return Reading(self.dropout(told), (hidden.squeeze(1), cell.squeeze(1)), (torch.stack(looks, dim=1),))

    def looks(self, name: str) -> bool:
        """Attention, and what reads what it has seen; the first state is learned from text as well."""
        return name.startswith(("attention.", "from_image.", "image_output."))

    def penalty(self, looks: Tensors, counts: Tensor) -> Tensor:
        """The mean over captions and cells of (1 - what the cell was looked at in all) squared.

        Source: arXiv 1502.03044, equation 14; the mean over cells, not their sum, because the loss beside it
            is the mean over tokens.
        """
        looked = (looks[0] * counts[:, :, None]).sum(dim=1)
        return self.config.attention_penalty * (1.0 - looked).square().mean()

    def context_specs(self) -> tuple[ContextSpec, ...]:
        """The cells twice, as keys and as values, and the first state."""
        cells = self.image.cells
        return (
            ContextSpec("image_keys", (cells, self.config.attention_width)),
            ContextSpec("image_values", (cells, self.image.channels)),
            *start_specs(self.config.width),
        )

    def state_specs(self) -> tuple[StateSpec, ...]:
        """Hidden state and cell."""
        return lstm_state_specs(self.config.width)

    def look_specs(self) -> tuple[TensorSpec, ...]:
        """Alpha, which each step computes anyway."""
        axes = ("batch_size", "num_beams", self.image.cells)
        return (TensorSpec("cross_attention", "cross_attention", "float32", axes),)

    def attention_spec(self) -> AttentionSpec:
        """Cells only: leading tokens are not looked at."""
        return AttentionSpec(self.image.rows, self.image.columns)
