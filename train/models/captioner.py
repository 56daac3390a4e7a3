"""The whole captioner: an encoder that sees and a decoder that writes."""

from __future__ import annotations

from torch import Tensor, nn

from kiloword.train.models.attention import KeyValue
from kiloword.train.models.decoder import DecoderConfig, TransformerDecoder
from kiloword.train.models.vit import VisionTransformer, VitConfig


class CaptionModel(nn.Module):
    """ViT encoder and Transformer decoder.

    Attributes:
        encoder: pixels to features, and the same in two parts for training with a frozen lower part.
        decoder: features to context, tokens and context to hidden states, hidden states to logits.
    """

    def __init__(self, encoder: VitConfig, decoder: DecoderConfig) -> None:
        super().__init__()
        self.encoder = VisionTransformer(encoder)
        self.decoder = TransformerDecoder(decoder)

    def encode(self, pixels: Tensor) -> list[KeyValue]:
        """uint8 pixels (B, height, width, 3) -> what each block of the decoder needs of the image."""
        return self.decoder.image_context(self.encoder(pixels))

    def forward(self, features: Tensor, input_ids: Tensor) -> Tensor:
        """Hidden states for teacher-forced training; ``decoder.logits`` makes scores of those that count.

        Args:
            features: (B, N, image_width), what the encoder returned.
            input_ids: int64 (B, C, L): C captions of each picture, beginning with ``bos``.

        Returns:
            (B, C, L, W) float: what is known after each position.
        """
        hidden, _ = self.decoder(input_ids.flatten(0, 1), self.decoder.image_context(features))
        return hidden.unflatten(0, input_ids.shape[:2])  # type: ignore[no-any-return]
