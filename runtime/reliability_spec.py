"""The numbers in a bundle that say how far to trust its captions; `runtime/reliability.py` applies them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FEATURES = (
    # of the tokens' probabilities
    *("logprob_mean", "logprob_min", "logprob_sum", "logprob_first", "tokens"),
    # of the pixels
    *("brightness", "contrast", "light_entropy", "black_share", "white_share", "main_light_share"),
    *("colourfulness", "colours", "colour_entropy", "main_colour_share"),
    *("edge_density", "flat_share", "strong_share", "coarseness", "column_unevenness", "row_unevenness"),
)
"""What a model may weigh; docs/HONESTY.md says what each is."""


@dataclass(frozen=True)
class LinearModel:
    """A logistic regression: the logistic function of a weighted sum is a probability."""

    bias: float
    weights: Mapping[str, float]
    """For each feature that counts, by how much."""
    pooled_weights: tuple[float, ...] = ()
    """One for each number of the pooled encoder output; empty: it does not count."""


@dataclass(frozen=True)
class ReliabilitySpec:
    """How to tell a good caption from a bad one, and a photo from what is none."""

    good: LinearModel
    """Gives the confidence: the probability that a caption is good."""
    photo: LinearModel
    """Gives the probability that the picture is a photo of the world."""
    photo_from: float
    """With a smaller probability of being a photo, a picture gets no reliable description."""
    reliable_from: float
    """With a smaller confidence, too."""
    sure_from: float
    """With a smaller confidence, the caption is said with "probably"."""
    pooled_output: str | None = None
    """The encoder's output (batch_size, heads, image_tokens, head_width) whose mean over the image tokens is
    weighed; null: none."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it was fitted on and how well it does; for people, it steers nothing."""


def check_reliability(spec: ReliabilitySpec, outputs: Mapping[str, tuple[int | str, ...]]) -> list[str]:
    """Look for contradictions.

    Args:
        spec: The numbers.
        outputs: The axes of each of the encoder's outputs.

    Returns:
        One sentence for each.
    """
    problems = [
        f"reliability.{name}: expected 0 to 1, found {value}"
        for name, value in (
            ("photo_from", spec.photo_from),
            ("reliable_from", spec.reliable_from),
            ("sure_from", spec.sure_from),
        )
        if not 0 <= value <= 1
    ]
    for name, model in (("good", spec.good), ("photo", spec.photo)):
        where = f"reliability.{name}"
        problems += [
            f"{where}.weights: no such feature: {key}" for key in model.weights if key not in FEATURES
        ]
        numbers = (model.bias, *model.weights.values(), *model.pooled_weights)
        if not all(map(math.isfinite, numbers)):
            problems.append(f"{where}: expected finite numbers")
        problems += _check_pooled(where, len(model.pooled_weights), spec.pooled_output, outputs)
    return problems


def _check_pooled(
    where: str, weights: int, output: str | None, outputs: Mapping[str, tuple[int | str, ...]]
) -> list[str]:
    if weights == 0:
        return []
    width = context_width(outputs.get(output or "", ()))
    if width is None:
        return [
            f"{where}.pooled_weights: reliability.pooled_output is {output!r}, which is no encoder output "
            "with batch, heads, image tokens and head width"
        ]
    if width != weights:
        axes = outputs[output or ""]
        return [f"{where}.pooled_weights: expected {axes[1]} x {axes[3]} numbers, found {weights}"]
    return []


def context_width(axes: Sequence[int | str]) -> int | None:
    """Heads times head width of a tensor (batch, heads, image tokens, head width); None for any other."""
    if len(axes) != 4 or isinstance(axes[1], str) or isinstance(axes[3], str):
        return None
    return axes[1] * axes[3]
