"""A decoder without pictures: a language model that a captioner can start from."""

from __future__ import annotations

from torch import Tensor, nn

from kiloword.train.models.decoder import Decoder


class LanguageModel(nn.Module):
    """A captioner's decoder that reads text alone.

    What looks at the picture is built, so that names and shapes are those of the captioner, but takes no
    part and is not stored: in the captioner it starts fresh.

    Attributes:
        decoder: named as in a captioner.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 (R, L) -> what is known after each token, (R, L, W)."""
        return self.decoder.read_text(input_ids)
