"""The encoders and decoders that a recipe may name: one line for each, the default first.

docs/ARCHITECTURE.md shows by example how to add one.
"""

from __future__ import annotations

from collections.abc import Mapping

from kiloword.train.models.decoder import DecoderConfig
from kiloword.train.models.encoder import EncoderConfig
from kiloword.train.models.transformer import TransformerConfig
from kiloword.train.models.vit import VitConfig

ENCODERS: Mapping[str, type[EncoderConfig]] = {
    "vit": VitConfig,
}
"""What ``encoder.kind`` may name."""

DECODERS: Mapping[str, type[DecoderConfig]] = {
    "transformer": TransformerConfig,
}
"""What ``decoder.kind`` may name."""
