"""The whole captioner: an encoder that sees and a decoder that writes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kiloword.train.models.concepts import Concepts, ConceptsConfig
from kiloword.train.models.decoder import DecoderConfig, Reading, Tensors
from kiloword.train.models.encoder import EncoderConfig
from kiloword.train.models.joint import JointSpace


class CaptionModel(nn.Module):
    """Any encoder with any decoder.

    Attributes:
        encoder: pixels to features, and the same in two parts for training with a frozen lower part.
        decoder: features to context, tokens and context to hidden states, hidden states to logits.
        concepts: where the recipe has them, words of the picture that the decoder reads beside the features.
        joint: where a stage of the recipe learns to match pictures and sentences, the space for both.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        decoder: DecoderConfig,
        vocab_size: int,
        concepts: ConceptsConfig | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder.build()
        image = self.encoder.output
        self.concepts = None if concepts is None else Concepts(concepts, image)
        self.decoder = decoder.build(
            vocab_size, image if self.concepts is None else self.concepts.shape(image)
        )
        self.joint: JointSpace | None = None

    def taught_concepts(self) -> Concepts:
        """The concepts, for those who can do nothing without.

        Raises:
            ValueError: the recipe has none.
        """
        if self.concepts is None:
            raise ValueError("the model has no concepts")
        return self.concepts

    def encode(self, pixels: Tensor) -> Tensors:
        """uint8 pixels (B, height, width, 3) -> what the decoder needs of the image."""
        return self.context(self.encoder(pixels))

    def context(self, features: Tensor) -> Tensors:
        """Features (B, N, C) of the encoder -> what the decoder needs of the image, concepts included."""
        if self.concepts is not None:
            features = torch.cat([self.concepts(features), features], dim=1)
        return self.decoder.image_context(features)

    def forward(self, features: Tensor, input_ids: Tensor) -> Tensor:
        """Hidden states for teacher-forced training; ``decoder.logits`` makes scores of those that count.

        Args:
            features: (B, N, C), what the encoder returned.
            input_ids: int64 (B, captions, L): captions of each picture, beginning with ``bos``.

        Returns:
            (B, captions, L, W) float: what is known after each position.
        """
        hidden = self.read(features, input_ids).hidden
        return hidden.reshape(*input_ids.shape, hidden.shape[-1])

    def read(self, features: Tensor, input_ids: Tensor) -> Reading:
        """All that the decoder knows after each position; the rows are pictures * captions.

        Args:
            features: (B, N, C), what the encoder returned.
            input_ids: int64 (B, captions, L).
        """
        return self.decoder.read(input_ids.flatten(0, 1), self.context(features))
