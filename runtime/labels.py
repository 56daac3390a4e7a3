"""Names of what may be in a photo, for when there is no reliable sentence: "perhaps: espresso, cup".

A linear layer over what the encoder hands to the decoder, fitted by `kiloword label` to say what an image
classifier says. It is one small file of the bundle and costs a quarter of a millisecond a photo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kiloword.runtime.errors import BundleError
from kiloword.runtime.reliability_spec import context_width

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LabelSpec:
    """How to name what may be in a photo."""

    weights: str
    """File with the arrays ``weight`` int8 (classes, features), ``scale`` float32 (classes,) and ``bias``
    float32 (classes,), as `numpy.savez` writes them: logits are weight * scale . features + bias."""
    names: str
    """Text file with a class a line, in UTF-8."""
    output: str
    """The encoder's output (batch_size, heads, image_tokens, head_width) that is looked at: its first token,
    then the mean of the others, are the features."""
    least: float
    """Least probability of a name that is said."""
    most: int = 3
    """Most names that are said."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it was fitted on and how well it does; for people, it steers nothing."""


def check_labels(
    spec: LabelSpec, outputs: Mapping[str, tuple[int | str, ...]], files: Mapping[str, object]
) -> list[str]:
    """Look for contradictions.

    Args:
        spec: What the manifest says.
        outputs: The axes of each of the encoder's outputs.
        files: The bundle's files; empty where they are not known yet.

    Returns:
        One sentence for each.
    """
    problems = [] if 0 <= spec.least <= 1 else [f"labels.least: expected 0 to 1, found {spec.least}"]
    if spec.most < 1:
        problems.append(f"labels.most: expected 1 or more, found {spec.most}")
    if context_width(outputs.get(spec.output, ())) is None:
        problems.append(
            f"labels.output: {spec.output!r} is no encoder output with batch, heads, image tokens and width"
        )
    if files:
        problems += [
            f"labels: {name} is no file of the bundle"
            for name in (spec.weights, spec.names)
            if name not in files
        ]
    return problems


def label_features(output: Floats) -> Floats:
    """What labels are told by: the first image token and the mean of the others.

    Args:
        output: float32 (heads, image_tokens, head_width), one photo's.

    Returns:
        float32 (2 * heads * head_width,).
    """
    others = output[:, 1:] if output.shape[1] > 1 else output
    features: Floats = np.concatenate((output[:, 0].ravel(), others.mean(axis=1).ravel()))
    return features


class Labeller:
    """The loaded layer.

    Args:
        spec: What the manifest says.
        directory: Of the bundle, whose files were checked.

    Raises:
        BundleError: The files are not what they should be.
    """

    def __init__(self, spec: LabelSpec, directory: Path) -> None:
        self._spec = spec
        path = directory / spec.weights
        try:
            with np.load(path, allow_pickle=False) as arrays:
                weight, scale, bias = (arrays[name] for name in ("weight", "scale", "bias"))
        except Exception as error:  # numpy and zipfile raise anything at a damaged file, MemoryError too
            raise BundleError(
                "holds no labels", path=path, expected="weight, scale and bias", found=str(error)
            ) from error
        names = (directory / spec.names).read_text(encoding="utf-8").splitlines()
        found = (len(names), weight.shape, scale.shape, bias.shape)
        if weight.ndim != 2 or found[2:] != ((len(names),),) * 2 or len(weight) != len(names):
            raise BundleError(
                "does not fit its names", path=path, expected="a row for each name", found=str(found)
            )
        self._names = names
        self._weight: Floats = weight.astype(np.float32) * scale[:, None].astype(np.float32)
        self._bias: Floats = bias.astype(np.float32)

    def probabilities(self, encoded: Mapping[str, Floats]) -> Floats:
        """Of each class: float32 (classes,), from the encoder's outputs for one photo."""
        # Not `@`: numpy's BLAS would wake a thread for each processor for this, and those spin for a while.
        logits = np.einsum("cf,f->c", self._weight, label_features(encoded[self._spec.output])) + self._bias
        odds = np.exp(logits - logits.max())
        probabilities: Floats = odds / odds.sum()
        return probabilities

    def __call__(self, encoded: Mapping[str, Floats]) -> tuple[str, ...]:
        """The names that are probable enough to be said, the most probable one first."""
        probabilities = self.probabilities(encoded)
        best = np.argsort(-probabilities, kind="stable")[: self._spec.most]
        likely = [index for index in best if probabilities[index] >= self._spec.least]
        return tuple(self._names[index] for index in likely)
