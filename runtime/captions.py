"""What comes back for a photo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kiloword.runtime.errors import KilowordError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NO_DESCRIPTION = "no reliable description"
"""What people read instead of a caption that is not reliable."""


@dataclass(frozen=True)
class Caption:
    """What a bundle says about a photo."""

    text: str
    confidence: float
    """Probability that the caption is good, 0..1, if the bundle is calibrated (docs/HONESTY.md says what good
    is); else ``mean_token_probability``."""
    token_ids: tuple[int, ...]
    """Without the prompt; ends with the end-of-sequence token unless ``max_new_tokens`` ran out."""
    token_logprobs: tuple[float, ...]
    """Natural logarithm of each token's probability."""
    latency_ms: float
    """Wall time from the image source to the text; in a batch the batch's time / its number of photos."""
    bundle: str
    """Name of the bundle."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the photo's file though it could be captioned: it is truncated, say."""
    reliable: bool = True
    """False: the picture is no photo, or the caption too uncertain to show; always true where the bundle is
    not calibrated and no least confidence was asked for."""
    reason: str | None = None
    """Why it is not reliable; None where it is."""
    sure: bool = True
    """False: it needs a "probably"."""
    labels: tuple[str, ...] = ()
    """What may be in the photo, the most probable first, if the bundle can tell and is sure enough; none
    where it is no photo."""
    mean_token_probability: float = 0.0
    """Geometric mean of the probabilities of the tokens, end of sequence included, 0..1."""
    words: tuple[str, ...] = ()
    """The words of ``text``, if attention was asked for."""
    attention: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    """Where the decoder looked for each word, if that was asked for: (words, grid height, grid width), each
    map sums to 1. The grid lies over what the encoder saw of the photo, its first row at the top."""

    @property
    def spoken(self) -> str:
        """What to show to people: `text`, with "probably" where it is not sure, or `NO_DESCRIPTION`.

        The latter with what may be in the photo, if that is known.

        >>> Caption("a dog", 0.4, (), (), 9.0, "mine", sure=False).spoken
        'probably a dog'
        >>> Caption("a man", 0.1, (), (), 9.0, "mine", reliable=False, labels=("espresso", "cup")).spoken
        'no reliable description; perhaps: espresso, cup'
        """
        if not self.reliable:
            return f"{NO_DESCRIPTION}; perhaps: {', '.join(self.labels)}" if self.labels else NO_DESCRIPTION
        return self.text if self.sure else f"probably {self.text}"


@dataclass(frozen=True)
class CaptionFailure:
    """Stands in the place of a caption when a photo could not be captioned."""

    error: KilowordError


def confidence(token_logprobs: Sequence[float]) -> float:
    """Geometric mean of token probabilities, 0..1.

    The mean, not the product: a product would call every long caption unlikely.

    Args:
        token_logprobs: Natural logarithms of the probabilities; none at all gives 0.

    >>> round(confidence([math.log(0.5), math.log(0.125)]), 6)
    0.25
    """
    if not token_logprobs:
        return 0.0
    return min(1.0, math.exp(sum(token_logprobs) / len(token_logprobs)))
