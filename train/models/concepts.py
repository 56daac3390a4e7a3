"""Words that a picture is probably about, told to the decoder beside what the encoder sees.

Shape legend:
    - B: pictures, R: sentences, N: image tokens, C: channels, T: words to choose from, K: words that are told
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kiloword.train.checks import too_small
from kiloword.train.models.encoder import FeatureShape

_RARE = -4.0
"""Score of a word that fits one picture in fifty: where an untaught head begins."""


@dataclass(frozen=True)
class ConceptsConfig:
    """The ``[concepts]`` table of a recipe."""

    source: Literal["captions", "classes"] = "captions"
    """``captions``: the most frequent content words of the training captions, found by a head that stages
    with ``concepts`` teach. ``classes``: those of the published classifier that ``encoder.weights`` brings
    along, as it is; names are not needed, for the decoder learns what each means."""
    words: int = 400
    """How many there are to choose from; with ``classes`` as many as the classifier has."""
    best: int = 8
    """How many the decoder is told of each picture."""
    sentences: str | None = None
    """Text file with a sentence a line, relative to ``data.root``, for stages with ``sentences``."""

    def describe(self) -> str:
        """In words, for a card."""
        source = "of the captions" if self.source == "captions" else "of the encoder's classifier"
        return f"the decoder is told the {self.best} likeliest of {self.words} words {source}"

    def problems(self) -> list[str]:
        """Values that make no sense."""
        found = too_small(self, 1, "words", "best")
        if not found and self.best > self.words:
            found.append(f"best: expected at most words, {self.words}, found {self.best}")
        if self.sentences is not None and self.source == "classes":
            found.append("sentences: expected none with source 'classes', for no sentence says its classes")
        return found


class Concepts(nn.Module):
    """Scores every word, and makes an image token of each of the best.

    A token is the word's vector times how sure the head is, so that what the decoder does with it teaches the
    head, too, and a word that is hardly believed is hardly heard.

    Source: the idea of Fang et al., "From Captions to Visual Concepts and Back", arXiv 1411.4952, and You et
        al., "Image Captioning with Semantic Attention", arXiv 1603.03925.
    """

    def __init__(self, config: ConceptsConfig, image: FeatureShape) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.words, image.channels)
        self.head: nn.Module
        if config.source == "classes":
            self.head = _GivenClassifier(image.channels, config.words)
        else:
            self.head = nn.Linear(2 * image.channels, config.words)
            nn.init.zeros_(self.head.weight)
            nn.init.constant_(self.head.bias, _RARE)

    def scores(self, features: Tensor) -> Tensor:
        """The encoder's features (B, N, C) -> logits (B, T)."""
        if self.config.source == "classes":
            return self.head(features[:, 0])  # type: ignore[no-any-return]
        # The mean says what the picture is like, the largest what is somewhere in it.
        pooled = torch.cat([features.mean(dim=1), features.amax(dim=1)], dim=-1)
        return self.head(pooled)  # type: ignore[no-any-return]

    def forward(self, features: Tensor) -> Tensor:
        """The encoder's features (B, N, C) -> a token for each of the best words (B, K, C)."""
        scores, words = self.scores(features).topk(self.config.best, dim=-1)
        chances = scores.softmax(-1) if self.config.source == "classes" else scores.sigmoid()
        return self.embedding(words) * chances[:, :, None]  # type: ignore[no-any-return]

    def told(self, words: Tensor, known: Tensor) -> Tensor:
        """Tokens of words that are known without a picture.

        Args:
            words: int64 (R, K), padded with any words.
            known: boolean (R, K), False at padding, which says nothing.

        Returns:
            (R, K, C).
        """
        return self.embedding(words) * known[:, :, None]  # type: ignore[no-any-return]

    def shape(self, image: FeatureShape) -> FeatureShape:
        """What the decoder gets: words first, which stand for no place, then what the encoder returned."""
        return replace(image, leading=image.leading + self.config.best)


class _GivenClassifier(nn.Module):
    """A linear layer that never learns here."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, width))
        self.register_buffer("bias", torch.zeros(classes))
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """(B, C) -> (B, T)."""
        return F.linear(features, self.weight, self.bias)
