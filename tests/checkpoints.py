"""Tiny checkpoints with random weights, made in milliseconds: export's tests need a model, not a training.

The captions are nonsense, but the same nonsense each time; they differ from photo to photo and end at
different lengths, which is what comparisons of token ids need to find anything.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn

from kiloword.export.export import export_bundle
from kiloword.export.quantized import QuantizeOptions
from kiloword.runtime.manifest import GenerationSettings
from kiloword.train.checkpoint import build_model, save_model
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.models.transformer import TransformerConfig
from kiloword.train.models.vit import VitConfig
from kiloword.train.recipe import (
    DataRecipe,
    DataSet,
    Recipe,
    Stage,
    TokenizerRecipe,
)
from kiloword.train.tokenizers import train_word_tokenizer

IMAGE_SIZE = 32
MAX_LENGTH = 16
WORDS = (
    *("a", "the", "dog", "cat", "man", "woman", "child", "horse", "ball", "field", "beach", "street", "red"),
    *("blue", "green", "small", "big", "two", "three", "runs", "sits", "jumps", "plays", "on", "in", "near"),
    *("tree", "car", "bus", "plane", "boat", "bird", "black", "white", "brown", "yellow", "grass", "snow"),
    *(
        "water",
        "ocean",
        "wall",
        "door",
        "table",
        "chair",
        "kitchen",
        "hat",
        "shirt",
        "camera",
        "phone",
        "book",
    ),
    *(
        "with",
        "and",
        "of",
        "at",
        "by",
        "over",
        "under",
        "through",
        "rides",
        "holds",
        "wears",
        "eats",
        "looks",
    ),
)
"""More than 64 with the special tokens: a smaller embedding would not be quantized."""
FORCED = QuantizeOptions("static+weight-only", force=True)
"""A model this small may be slower in int8, which must not decide a test."""

RECIPE = Recipe(
    name="tiny-test",
    data=DataRecipe(
        train=(DataSet("no-such-data"),),
        validation=(DataSet("no-such-data"),),
        root="no-such-folder",
        licence="Random weights: no data.",
    ),
    stages=(Stage("none", passes=1, learning_rate=1e-3),),
    tokenizer=TokenizerRecipe(min_count=1, max_tokens=MAX_LENGTH),
    encoder=VitConfig(image_size=IMAGE_SIZE, patch_size=8, width=64, depth=2, heads=2),
    decoder=TransformerConfig(width=64, depth=2, heads=4, max_length=MAX_LENGTH, dropout=0.0),
    generation=GenerationSettings(num_beams=2, max_new_tokens=12),
)


def tiny_recipe(**changes: object) -> Recipe:
    """`RECIPE` with other values for some of its fields."""
    return replace(RECIPE, **changes)  # type: ignore[arg-type]


def tiny_tokenizer() -> Tokenizer:
    """One token for each of `WORDS`."""
    return train_word_tokenizer(WORDS, min_count=1, vocab_size=1000)


def tiny_model(recipe: Recipe = RECIPE, seed: int = 1) -> CaptionModel:
    """A captioner whose weights are random and large enough to make it look at the photo."""
    torch.manual_seed(seed)
    model = build_model(recipe, tiny_tokenizer().get_vocab_size())
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, 1.2 / module.in_features**0.5)
                module.bias.normal_(0.0, 0.2)
        for name, parameter in model.decoder.named_parameters():
            if "cross_query" in name or "cross_key_value" in name:  # sharp looks at different patches
                parameter.mul_(2.5)
        # Positions louder than words, for a tied embedding likes to repeat the word that it has just read.
        model.decoder.token_embedding.weight.normal_(0.0, 0.3)
        model.decoder.position_embedding.weight.normal_(0.0, 3.0)
        model.decoder.output_bias.zero_()
        model.decoder.output_bias[2] = 4.3  # a caption ends now and then
    return model.eval()


def make_tiny_checkpoint(
    directory: Path, *, recipe: Recipe = RECIPE, model: CaptionModel | None = None
) -> Path:
    """Writes a checkpoint with random weights and returns its directory."""
    chosen = tiny_model(recipe) if model is None else model
    training = {"passes": 1, "stage": "none", "photos": 0, "captions": 0, "vocabulary": 0}
    save_model(directory, chosen.state_dict(), tiny_tokenizer(), recipe, training)
    return directory


@dataclass(frozen=True)
class TinyExport:
    """A checkpoint and what became of it."""

    checkpoint: Path
    model: CaptionModel
    """The same weights, in evaluation mode."""
    fp32: Path
    int8: Path
    chatter: tuple[logging.LogRecord, ...]
    """What other packages logged, at level INFO or above, while it was exported."""


def export_tiny_checkpoint(directory: Path) -> TinyExport:
    """Makes a checkpoint and exports it in both precisions."""
    model = tiny_model()
    checkpoint = make_tiny_checkpoint(directory / "checkpoint", model=model)
    listener = _Listener()
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(listener)
    root.setLevel(logging.INFO)
    try:
        fp32, int8 = export_bundle(checkpoint, directory / "bundles", quantize=FORCED)
    finally:
        root.removeHandler(listener)
        root.setLevel(level)
    chatter = [record for record in listener.records if not record.name.startswith("kiloword")]
    return TinyExport(checkpoint, model, fp32, int8, tuple(chatter))


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def random_pixels(count: int, seed: int = 7) -> NDArray[np.uint8]:
    """Random photos of the size that the tiny models take: uint8 (count, height, width, 3)."""
    shape = (count, IMAGE_SIZE, IMAGE_SIZE, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
