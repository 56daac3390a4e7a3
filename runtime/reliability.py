"""How far to trust a caption: a calibrated confidence, and whether the picture is a photo at all.

The numbers are fitted by `kiloword calibrate` and live in the bundle (`Manifest.reliability`); here they are
only applied. Everything is plain numpy on what is there anyway (the pixels, the encoder's output and the
tokens' probabilities) and costs well under a millisecond a photo. docs/HONESTY.md says what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from kiloword.runtime.captions import confidence as mean_probability
from kiloword.runtime.reliability_spec import LinearModel, ReliabilitySpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

Features: TypeAlias = dict[str, float]

NOT_A_PHOTO = "does not look like a photo"
"""The reason that is given for pictures of other kinds."""

_COLOUR_BITS = 4
_FLAT_STEP = 2
_STRONG_STEP = 40
_COARSE = 4


@dataclass(frozen=True)
class Reliability:
    """What is to be said of one caption."""

    confidence: float
    """Probability that the caption is good, as docs/HONESTY.md defines good; 0..1."""
    reliable: bool = True
    """False: do not show the caption as a description."""
    reason: str | None = None
    """Why it is not reliable; None where it is."""
    sure: bool = True
    """False: say "probably"."""


def judge(
    spec: ReliabilitySpec | None,
    pixels: NDArray[np.uint8],
    encoded: Mapping[str, NDArray[np.float32]],
    token_logprobs: Sequence[float],
    min_confidence: float | None = None,
) -> Reliability:
    """Judge one caption.

    Args:
        spec: The numbers from the bundle; None where it has none: then every caption is reliable and its
            confidence is the mean probability of its tokens.
        pixels: uint8 (height, width, 3), as the encoder got them.
        encoded: The encoder's outputs for this photo, without the batch axis.
        token_logprobs: Natural logarithms of the tokens' probabilities.
        min_confidence: Least confidence of a reliable caption, in place of the bundle's.
    """
    if spec is None:
        return _judge_confidence(mean_probability(token_logprobs), min_confidence or 0.0, 0.0)
    features = {**picture_features(pixels), **caption_features(token_logprobs)}
    pooled = None if spec.pooled_output is None else pool(encoded[spec.pooled_output])
    confidence = predict(spec.good, features, pooled)
    if predict(spec.photo, features, pooled) < spec.photo_from:
        return Reliability(confidence, reliable=False, reason=NOT_A_PHOTO, sure=False)
    least = spec.reliable_from if min_confidence is None else min_confidence
    return _judge_confidence(confidence, least, spec.sure_from)


def _judge_confidence(confidence: float, least: float, sure_from: float) -> Reliability:
    if confidence < least:
        reason = f"too uncertain: confidence {confidence:.2f}, expected {least:.2f} or more"
        return Reliability(confidence, reliable=False, reason=reason, sure=False)
    return Reliability(confidence, sure=confidence >= sure_from)


def predict(model: LinearModel, features: Features, pooled: NDArray[np.float32] | None = None) -> float:
    """Probability (0..1) by a logistic regression.

    Args:
        model: Its coefficients.
        features: A value for each name that the model uses.
        pooled: float32 (width,), what `pool` returned; needed if the model has weights for it.
    """
    total = model.bias
    for name, weight in model.weights.items():
        total += weight * features[name]
    if model.pooled_weights and pooled is not None:
        total += float(np.dot(pooled, np.asarray(model.pooled_weights, dtype=np.float32)))
    return 1 / (1 + math.exp(-min(max(total, -60.0), 60.0)))


def pool(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over the image tokens of a context.

    Args:
        output: float32 (heads, image_tokens, head_width), one photo's.

    Returns:
        float32 (heads * head_width,).
    """
    pooled: NDArray[np.float32] = output.mean(axis=1).ravel()
    return pooled


def caption_features(token_logprobs: Sequence[float]) -> Features:
    """What the tokens' probabilities say of a caption; all zero for one without tokens."""
    if not token_logprobs:
        return dict.fromkeys(("logprob_mean", "logprob_min", "logprob_sum", "logprob_first", "tokens"), 0.0)
    count = len(token_logprobs)
    total = sum(token_logprobs)
    return {
        "logprob_mean": total / count,
        "logprob_min": min(token_logprobs),
        "logprob_sum": total,
        "logprob_first": sum(token_logprobs[:3]),
        "tokens": float(count),
    }


def picture_features(pixels: NDArray[np.uint8]) -> Features:
    """Plain statistics of a picture: light, colours, edges and how they lie.

    Args:
        pixels: uint8 (height, width, 3), RGB.
    """
    red, green, blue = (np.ascontiguousarray(pixels[:, :, channel]) for channel in range(3))
    luma = _luma(red, green, blue)
    # A quarter of the pixels says as much of light and colours; counting all took half of the time.
    some = (slice(None, None, 2), slice(None, None, 2))
    return {**_light(luma[some]), **_colours(red[some], green[some], blue[some]), **_edges(luma)}


def _luma(red: NDArray[np.uint8], green: NDArray[np.uint8], blue: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Brightness 0..255, by the weights of ITU-R BT.601 in 256ths: the largest sum just fits 16 bits."""
    total = red * np.uint16(77)
    total += green * np.uint16(150)
    total += blue * np.uint16(29)
    return (total >> 8).astype(np.int16)


def _light(luma: NDArray[np.int16]) -> Features:
    counts = np.bincount(luma.ravel(), minlength=256)
    shares = counts / luma.size
    levels = np.arange(256) / 255
    mean = float(shares @ levels)
    deviation = math.sqrt(max(float(shares @ levels**2) - mean * mean, 0.0))
    return {
        "brightness": mean,
        "contrast": deviation,
        "light_entropy": _entropy(shares),
        "black_share": float(shares[:8].sum()),
        "white_share": float(shares[248:].sum()),
        "main_light_share": float(shares.max()),
    }


def _colours(red: NDArray[np.uint8], green: NDArray[np.uint8], blue: NDArray[np.uint8]) -> Features:
    drop = 8 - _COLOUR_BITS
    codes = (red >> drop).astype(np.int16)
    codes = (codes << _COLOUR_BITS | green >> drop) << _COLOUR_BITS | blue >> drop
    shares = np.bincount(codes.ravel(), minlength=1 << 3 * _COLOUR_BITS) / codes.size
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return {
        "colourfulness": float(spread.sum(dtype=np.int64)) / spread.size / 255,
        "colours": math.log2(1 + np.count_nonzero(shares)),
        "colour_entropy": _entropy(shares),
        "main_colour_share": float(shares.max()),
    }


def _edges(luma: NDArray[np.int16]) -> Features:
    across, down = np.abs(np.diff(luma, axis=1)), np.abs(np.diff(luma, axis=0))
    # Whole sums: numpy's mean turns every number into a float first, which takes twice the time.
    by_column = across.sum(axis=0, dtype=np.int32) / len(across)
    by_row = down.sum(axis=1, dtype=np.int32) / down.shape[1]
    mean = float(by_column.mean() + by_row.mean()) / 2
    coarse = _mean_step(luma[:, _COARSE:], luma[:, :-_COARSE]) + _mean_step(luma[_COARSE:], luma[:-_COARSE])
    steps = across.size + down.size
    return {
        "edge_density": mean / 255,
        "flat_share": float(np.count_nonzero(across < _FLAT_STEP) + np.count_nonzero(down < _FLAT_STEP))
        / steps,
        "strong_share": (np.count_nonzero(across > _STRONG_STEP) + np.count_nonzero(down > _STRONG_STEP))
        / steps,
        "coarseness": coarse / 2 / (mean + 0.5),
        "column_unevenness": float(by_column.std()) / (float(by_column.mean()) + 0.5),
        "row_unevenness": float(by_row.std()) / (float(by_row.mean()) + 0.5),
    }


def _mean_step(one: NDArray[np.int16], other: NDArray[np.int16]) -> float:
    return float(np.abs(one - other).sum(dtype=np.int64)) / max(1, one.size)


def _entropy(shares: NDArray[np.float64]) -> float:
    """In bits."""
    present = shares[shares > 0]
    return float(-(present * np.log2(present)).sum())
