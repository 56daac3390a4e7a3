"""Show and Tell: the whole picture in one vector, and an LSTM that never looks again.

Shape legend:
    - B: pictures, R: rows (R / B of each picture stand together), L: new tokens, C: channels of a cell,
      E: width of a word, W: width of the state, V: vocabulary

Source: Vinyals et al., "Show and Tell: A Neural Image Caption Generator", arXiv 1411.4555.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

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
    StateFromImage,
    begin,
    lstm_state_specs,
    lstm_step,
    remember_at_first,
    start_specs,
)


@dataclass(frozen=True)
class ShowTellConfig(DecoderConfig):
    """What Show and Tell is made of."""

    kind: Literal["show_tell"] = field(default="show_tell", kw_only=True)
    width: int = 512
    """Width of the LSTM's state."""
    word_width: int = 256
    """Width of a word's embedding, and of the picture's where it is read like a word."""
    dropout: float = 0.3
    """Dropout on words and before the output, in training."""
    image_as: Literal["first_input", "initial_state"] = "first_input"
    """The picture is what the LSTM reads before ``<bos>``, as in the paper, or what its state begins with."""

    @property
    def longest(self) -> None:
        """An LSTM reads on and on."""
        return

    def build(self, vocab_size: int, image: FeatureShape) -> ShowTell:
        """A decoder with fresh weights."""
        return ShowTell(self, vocab_size, image)

    def describe(self) -> str:
        """The architecture in a few words."""
        return f"LSTM without attention (Show and Tell), width {self.width}"

    def problems(self) -> list[str]:
        """Values that make no sense."""
        return too_small(self, 1, "width", "word_width") + not_a_share(self, "dropout")


class ShowTell(Decoder):
    """LSTM over words; all that it knows of the picture is the state that it begins with."""

    token_by_token = True

    def __init__(self, config: ShowTellConfig, vocab_size: int, image: FeatureShape) -> None:
        super().__init__()
        self.config: ShowTellConfig = config
        self.vocab_size = vocab_size
        self.image = image
        width = config.width
        self.token_embedding = nn.Embedding(vocab_size, config.word_width)
        self.from_word = nn.Linear(config.word_width, 4 * width)
        self.from_state = nn.Linear(width, 4 * width, bias=False)
        if config.image_as == "first_input":
            self.image_word: nn.Module = nn.Linear(image.channels, config.word_width)
        else:
            self.start = StateFromImage(image.channels, width)
        self.output = nn.Linear(width, vocab_size, bias=False)
        self.output_bias = nn.Parameter(torch.zeros(vocab_size))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.token_embedding.weight, std=0.1)
        remember_at_first(self.from_word)

    @property
    def output_weight(self) -> Tensor:
        """From the state to the vocabulary."""
        return self.output.weight

    def image_context(self, features: Tensor) -> Tensors:
        """First hidden state and first cell, (B, W) each."""
        cells = features[:, self.image.leading :]
        if self.config.image_as == "initial_state":
            state: Tensors = self.start(cells)
            return state
        sums = self.from_word(self.image_word(cells.mean(dim=1, keepdim=True)))
        hidden, cell = lstm_step(sums, torch.zeros_like(sums[..., : self.config.width]))
        return hidden.squeeze(1), cell.squeeze(1)

    def read(self, input_ids: Tensor, context: Tensors, past: Tensors | None = None) -> Reading:
        """Reads tokens one after the other; the state is (R, W) twice."""
        words = self.dropout(self.token_embedding(input_ids))
        hidden, cell = begin(context, past, len(input_ids))
        states = []
        for sums in self.from_word(words).split(1, dim=1):
            hidden, cell = lstm_step(sums + self.from_state(hidden), cell)
            states.append(hidden)
        told = self.dropout(torch.cat(states, dim=1))
        return Reading(told, (hidden.squeeze(1), cell.squeeze(1)))

    def looks(self, name: str) -> bool:
        """What makes a word of the picture, but for its bias, which is the word of no picture."""
        return name == "image_word.weight"

    def context_specs(self) -> tuple[ContextSpec, ...]:
        """Only the first state."""
        return start_specs(self.config.width)

    def state_specs(self) -> tuple[StateSpec, ...]:
        """Hidden state and cell."""
        return lstm_state_specs(self.config.width)
