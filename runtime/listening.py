"""A decoder whose steps are heard: to run its graph by itself on them, or to look at its inner tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kiloword.runtime.generation import Floats, Ids
from kiloword.runtime.sessions import DecoderSession

if TYPE_CHECKING:
    from kiloword.runtime.sessions import Tensors


class ListeningDecoder:
    """A decoder for the search that tells what each of its steps is given.

    Args:
        decoder: What takes the steps.
        hear: Called with all inputs of its graph, by name, before each step.
    """

    def __init__(self, decoder: DecoderSession, hear: Callable[[Tensors], None]) -> None:
        self._decoder = decoder
        self._hear = hear
        self.token_by_token = decoder.token_by_token
        self.context = decoder.context
        self.initial_state = decoder.initial_state
        self.without_last = decoder.without_last

    def step(
        self, input_ids: Ids, beam_rows: Ids, context: Tensors, state: Tensors
    ) -> tuple[Floats, Tensors]:
        """As the decoder's own."""
        self._hear(self._decoder.feeds(input_ids, beam_rows, context, state))
        return self._decoder.step(input_ids, beam_rows, context, state)

    def read(
        self, input_ids: Ids, beam_rows: Ids, context: Tensors, state: Tensors
    ) -> tuple[Floats, Tensors]:
        """As the decoder's own."""
        self._hear(self._decoder.feeds(input_ids, beam_rows, context, state))
        return self._decoder.read(input_ids, beam_rows, context, state)
