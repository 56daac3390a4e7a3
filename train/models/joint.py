"""The space in which pictures and sentences can be compared.

Shape legend:
    - P: pictures, S: sentences, N: image tokens, L: tokens of a sentence, J: width of the joint space
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

JOINT_WIDTH = 128
_FIRST_TEMPERATURE = 0.07
_LEAST_TEMPERATURE = 0.01


class JointSpace(nn.Module):
    """Two projections and a learned temperature.

    Source: Akbari et al., "VATT", arXiv 2104.11178; the temperature as in Radford et al., "Learning
        Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020.
    """

    def __init__(self, image_width: int, text_width: int, width: int = JOINT_WIDTH) -> None:
        super().__init__()
        self.image = nn.Linear(image_width, width, bias=False)
        self.text = nn.Linear(text_width, width, bias=False)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(_FIRST_TEMPERATURE)))

    @property
    def temperature(self) -> Tensor:
        """A scalar; small ones make the softmax sharp. Never below 0.01, where training would break."""
        return self.log_temperature.exp().clamp(min=_LEAST_TEMPERATURE)

    def image_vectors(self, features: Tensor) -> Tensor:
        """The encoder's features (P, N, C), averaged over the picture -> (P, J) of length 1."""
        return F.normalize(self.image(features.mean(dim=1)).float(), dim=-1)

    def text_vectors(self, hidden: Tensor, ends: Tensor) -> Tensor:
        """What is known after the last token of each sentence.

        Args:
            hidden: (S, L, W) of a reading without any picture.
            ends: int64 (S,), the place of the last token.

        Returns:
            (S, J) of length 1.
        """
        last = hidden[torch.arange(len(hidden), device=hidden.device), ends]
        return F.normalize(self.text(last).float(), dim=-1)
