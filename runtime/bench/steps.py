"""What the two graphs of a bundle are given for a photo, step by step, to run them by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kiloword.runtime.bundle import Bundle
from kiloword.runtime.generation import Floats, Ids, generate
from kiloword.runtime.manifest import GenerationSettings
from kiloword.runtime.sessions import DecoderSession

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kiloword.runtime.sessions import Tensors


class _Listening:
    """A decoder that keeps what its steps were given."""

    def __init__(self, decoder: DecoderSession, bundle: Bundle) -> None:
        self._decoder = decoder
        graph = bundle.manifest.decoder
        self._names = graph.inputs_of("token_ids")[0].name, graph.inputs_of("beam_rows")[0].name
        self.feeds: list[Tensors] = []

    @property
    def token_by_token(self) -> bool:
        return self._decoder.token_by_token

    def context(self, encoded: Tensors) -> Tensors:
        return self._decoder.context(encoded)

    def initial_state(self, encoded: Tensors, batch_size: int) -> Tensors:
        return self._decoder.initial_state(encoded, batch_size)

    def step(
        self, input_ids: Ids, beam_rows: Ids, context: Tensors, state: Tensors
    ) -> tuple[Floats, Tensors]:
        given = dict(zip(self._names, (input_ids, beam_rows), strict=True))
        self.feeds.append({**given, **context, **state})
        return self._decoder.step(input_ids, beam_rows, context, state)


def encoder_feeds(bundle: Bundle, pixels: NDArray[np.uint8]) -> Tensors:
    """The inputs of encoder.onnx for a photo, uint8 (height, width, 3)."""
    return {bundle.manifest.encoder.inputs_of("pixels")[0].name: pixels[None]}


def decoder_feeds(
    bundle: Bundle, decoder: DecoderSession, encoded: Tensors, settings: GenerationSettings
) -> list[Tensors]:
    """The inputs of decoder.onnx at each step of a caption.

    Args:
        bundle: What captions.
        decoder: Its decoder, loaded.
        encoded: What the encoder returned for one photo.
        settings: How to search.
    """
    listening = _Listening(decoder, bundle)
    generate(listening, encoded, bundle.manifest.tokens, settings)
    return listening.feeds
