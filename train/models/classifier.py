"""An encoder with a linear layer on top: what teaches an encoder to see before a captioner starts from it."""

from __future__ import annotations

from torch import Tensor, nn

from kiloword.train.models.encoder import Encoder


class Classifier(nn.Module):
    """Features averaged over the picture, one linear layer.

    The average is over all tokens, not a class token alone: a captioner looks at the patches, so these are
    what must learn to mean something.

    Attributes:
        encoder: named as in a captioner, which can thus start from a classifier's checkpoint.
        head: features to scores.
    """

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.output.channels, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, C) of the encoder -> scores (B, classes)."""
        return self.head(features.mean(dim=1))  # type: ignore[no-any-return]
