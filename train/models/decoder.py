"""What every decoder is: features to a context computed once, tokens and state to the next word.

Shape legend:
    - B: pictures, R: rows (captions in training, pictures * beams when generating; rows of a picture stand
      together), L: new tokens, N: image tokens, W: width of the hidden state, V: vocabulary
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kiloword.runtime.manifest import AttentionSpec, TensorSpec
from kiloword.train.models.encoder import FeatureShape

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class DecoderConfig(ABC):
    """The ``[decoder]`` table of a recipe; ``kind`` decides which subclass reads it."""

    kind: str = field(default="", kw_only=True)
    """Name in `registry.DECODERS`."""

    @classmethod
    def kinds(cls) -> Mapping[str, type[DecoderConfig]]:
        """The classes that ``kind`` may name, the default first (see `runtime.schema`)."""
        from kiloword.train.models.registry import DECODERS

        return DECODERS

    @property
    @abstractmethod
    def longest(self) -> int | None:
        """Most tokens that can be read, ``<bos>`` included; ``None``: any number."""

    @abstractmethod
    def build(self, vocab_size: int, image: FeatureShape) -> Decoder:
        """The decoder with fresh weights, for the features of an encoder."""

    @abstractmethod
    def describe(self) -> str:
        """The architecture in a few words, for the card of a bundle."""

    @abstractmethod
    def problems(self) -> list[str]:
        """Values that make no sense."""


class Reading(NamedTuple):
    """What a decoder knows after reading new tokens."""

    hidden: Tensor
    """(R, L, W): what is known after each token; `Decoder.logits` makes scores of it."""
    state: Tensors
    """What the next call goes on from, axis 0 is R."""
    looks: Tensors = ()
    """What says where each token looked, as `Decoder.look_specs` declares, axes (R, L, ...)."""


@dataclass(frozen=True)
class ContextSpec:
    """A tensor that the encoder's graph computes for the decoder, once for each picture."""

    name: str
    axes: tuple[int, ...]
    """Sizes after the first axis, which counts pictures."""
    starts: str | None = None
    """The state input that begins with it; ``None`` for what stays the same at each step."""


@dataclass(frozen=True)
class StateSpec:
    """A tensor that is handed from step to step."""

    past: TensorSpec
    """The graph's input."""
    present: TensorSpec
    """The graph's output."""


class Decoder(nn.Module, ABC):
    """Writes a caption token by token.

    A new kind implements `image_context`, `read` and what it declares of itself; training, validation,
    export, int8 and the runtime's search need nothing else.
    """

    config: DecoderConfig
    vocab_size: int
    image: FeatureShape
    output_bias: nn.Parameter
    """(V,)."""

    @property
    @abstractmethod
    def output_weight(self) -> Tensor:
        """(V, W): the matrix that turns hidden states into logits."""

    @property
    @abstractmethod
    def token_by_token(self) -> bool:
        """Whether the exported graph reads one token per call, as recurrent decoders do."""

    @abstractmethod
    def image_context(self, features: Tensor) -> Tensors:
        """What depends on the picture alone, computed once.

        Args:
            features: float (B, N, C) of the encoder.

        Returns:
            The tensors that `context_specs` declares, in this order.
        """

    @abstractmethod
    def read(self, input_ids: Tensor, context: Tensors, past: Tensors | None = None) -> Reading:
        """Reads new tokens.

        Args:
            input_ids: int64 (R, L).
            context: what `image_context` returned for B pictures; R is a multiple of B. With ``past``, those
                tensors that start a state may be left out.
            past: the state of an earlier reading; ``None`` at the beginning of a sentence.
        """

    @abstractmethod
    def context_specs(self) -> tuple[ContextSpec, ...]:
        """What `image_context` returns: first what stays the same, then what starts a state."""

    @abstractmethod
    def state_specs(self) -> tuple[StateSpec, ...]:
        """The state of a `Reading`."""

    def look_specs(self) -> tuple[TensorSpec, ...]:
        """The graph's outputs that say where a token looked; none for a decoder without attention.

        Their role is ``cross_query``, one for each block, or ``cross_attention``, one with an axis of image
        tokens.
        """
        return ()

    def attention_spec(self) -> AttentionSpec | None:
        """How `look_specs` become a map of the picture; ``None`` for a decoder without attention."""
        return None

    def forward(
        self, input_ids: Tensor, context: Tensors, past: Tensors | None = None
    ) -> tuple[Tensor, Tensors]:
        """Hidden states (R, L, W) and the state after them."""
        reading = self.read(input_ids, context, past)
        return reading.hidden, reading.state

    def read_text(self, input_ids: Tensor) -> Tensor:
        """Reads sentences without a picture: int64 (R, L) -> hidden states (R, L, W).

        By default the picture is blank, with features of zeros.
        """
        blank = self.output_bias.new_zeros(1, self.image.tokens, self.image.channels)
        return self.read(input_ids, self.image_context(blank)).hidden

    def looks(self, name: str) -> bool:  # noqa: ARG002
        """Whether the parameter called ``name`` does nothing but look at the picture."""
        return False

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of each token id: (..., W) -> (..., V)."""
        return nn.functional.linear(hidden, self.output_weight, self.output_bias)

    def penalty(self, looks: Tensors, counts: Tensor) -> Tensor:  # noqa: ARG002
        """What training adds to the loss for where captions looked; by default nothing.

        Args:
            looks: of a `Reading`.
            counts: boolean (R, L), True where a token is learned.

        Returns:
            A scalar.
        """
        return self.output_bias.new_zeros(())


def start_from_normal(module: nn.Module) -> None:
    """Normal(0, 0.02) weights and zero biases, as GPT-2 starts."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def spread(tensor: Tensor, rows: int) -> Tensor:
    """Repeats each picture's state for its rows: (B, ...) -> (rows, ...)."""
    return tensor if tensor.shape[0] == rows else torch.repeat_interleave(tensor, rows // len(tensor), dim=0)
