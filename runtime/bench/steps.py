"""What the two graphs of a bundle are given for a photo, step by step, to run them by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kiloword.runtime.bundle import Bundle
from kiloword.runtime.generation import generate
from kiloword.runtime.listening import ListeningDecoder
from kiloword.runtime.manifest import GenerationSettings
from kiloword.runtime.sessions import DecoderSession

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kiloword.runtime.draft import Drafter
    from kiloword.runtime.sessions import Tensors


def encoder_feeds(bundle: Bundle, pixels: NDArray[np.uint8]) -> Tensors:
    """The inputs of encoder.onnx for a photo, uint8 (height, width, 3)."""
    return {bundle.manifest.encoder.inputs_of("pixels")[0].name: pixels[None]}


def decoder_feeds(
    bundle: Bundle,
    decoder: DecoderSession,
    encoded: Tensors,
    settings: GenerationSettings,
    drafter: Drafter | None = None,
) -> list[Tensors]:
    """The inputs of decoder.onnx at each step of a caption.

    Args:
        bundle: What captions.
        decoder: Its decoder, loaded.
        encoded: What the encoder returned for one photo.
        settings: How to search.
        drafter: What guesses tokens, so that some steps read several; None: each reads one.
    """
    feeds: list[Tensors] = []
    heard = ListeningDecoder(decoder, feeds.append)
    heard_drafter = None if drafter is None else drafter.checked_by(heard)
    generate(heard, encoded, bundle.manifest.tokens, settings, drafter=heard_drafter)
    return feeds
