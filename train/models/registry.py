"""The encoders and decoders that a recipe may name: one line for each, the default first.

docs/ARCHITECTURE.md shows by example how to add one.
"""

from __future__ import annotations

from collections.abc import Mapping

from kiloword.train.models.decoder import DecoderConfig
from kiloword.train.models.encoder import EncoderConfig
from kiloword.train.models.hybrid import HybridConfig
from kiloword.train.models.mobilenet import MobileNetV2Config
from kiloword.train.models.resnet import ResNetConfig
from kiloword.train.models.show_attend_tell import ShowAttendTellConfig
from kiloword.train.models.show_tell import ShowTellConfig
from kiloword.train.models.stem import ConvStemConfig
from kiloword.train.models.transformer import TransformerConfig
from kiloword.train.models.vit import VitConfig

ENCODERS: Mapping[str, type[EncoderConfig]] = {
    "vit": VitConfig,
    "mobilenet_v2": MobileNetV2Config,
    "resnet": ResNetConfig,
    "conv_stem": ConvStemConfig,
    "hybrid": HybridConfig,
}
"""What ``encoder.kind`` may name."""

DECODERS: Mapping[str, type[DecoderConfig]] = {
    "transformer": TransformerConfig,
    "show_attend_tell": ShowAttendTellConfig,
    "show_tell": ShowTellConfig,
}
"""What ``decoder.kind`` may name."""
