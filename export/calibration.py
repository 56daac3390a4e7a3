"""Ranges of the activations of a graph, measured on photos, and which of them no single range can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from kiloword.runtime.bundle import Bundle
from kiloword.runtime.generation import generate
from kiloword.runtime.listening import ListeningDecoder
from kiloword.runtime.sessions import load_sessions

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

OUTLIER_RATIO = 12.0
"""A tensor has outliers when its largest value is this many times its 99.9th percentile."""


@dataclass
class Activations:
    """What was seen of one tensor."""

    lowest: float = 0.0
    """Least value, at most 0: zero must be representable."""
    highest: float = 0.0
    """Largest value, at least 0."""
    whole: bool = True
    """Whether all values were whole numbers."""
    usual: float = 0.0
    """The largest 99.9th percentile of the magnitude in any photo."""

    def see(self, values: Floats) -> None:
        """Adds the values of one photo or step; there may be none, as in an empty past."""
        if values.size == 0:
            return
        self.lowest = min(self.lowest, float(values.min()))
        self.highest = max(self.highest, float(values.max()))
        self.usual = max(self.usual, float(np.quantile(np.abs(values), 0.999)))
        self.whole = self.whole and bool(np.array_equal(values, np.round(values)))

    @property
    def has_outliers(self) -> bool:
        """Whether a range that holds every value leaves too few steps for nearly all of them."""
        return max(self.highest, -self.lowest) > OUTLIER_RATIO * self.usual

    @property
    def are_bytes(self) -> bool:
        """Whether these are raw pixels, which a grid measured on dark photos would cut off or round."""
        return self.whole and self.lowest == 0 and 1 < self.highest <= 255

    def scale_and_zero_point(self) -> tuple[np.float32, np.uint8]:
        """The uint8 grid that holds every value that was seen.

        Cutting off the rarest values has less squared error in each tensor, and more in the end: for ViT-Tiny
        0.141 of error in the encoder's output instead of 0.136, all of it from the inputs of attention, and
        CIDEr 55.3 instead of 56.5 on COCO dev (fp32: 56.4, greedy).
        """
        if self.are_bytes:
            return np.float32(1), np.uint8(0)
        scale = np.float32(max((self.highest - self.lowest) / 255, 1e-8))
        return scale, np.uint8(np.clip(np.round(-self.lowest / scale), 0, 255))


def measure(model: onnx.ModelProto, tensors: Sequence[str], photos: Pixels) -> dict[str, Activations]:
    """Runs photos through a graph and looks at inner tensors.

    Args:
        model: a graph with the one input ``pixels``.
        tensors: names of the tensors to look at.
        photos: uint8 (photos, height, width, 3).

    Returns:
        What was seen of each tensor.
    """
    watch = _Watch(model, tensors)
    for index in range(len(photos)):
        watch.run({"pixels": photos[index : index + 1]})
    return watch.seen


def measure_decoder(
    bundle: Bundle, model: onnx.ModelProto, tensors: Sequence[str], photos: Pixels
) -> dict[str, Activations]:
    """Looks at inner tensors of a decoder while it captions photos, with the bundle's own search.

    Args:
        bundle: fp32; it captions.
        model: its decoder's graph, perhaps written otherwise.
        tensors: names of the tensors to look at.
        photos: uint8 (photos, height, width, 3).

    Returns:
        What was seen of each tensor.
    """
    sessions = load_sessions(bundle, "cpu")
    watch = _Watch(model, tensors)
    decoder = ListeningDecoder(sessions.decoder, watch.run)
    for index in range(len(photos)):
        encoded = sessions.encoder.encode(photos[index : index + 1])
        generate(decoder, encoded, bundle.manifest.tokens, bundle.manifest.generation)
    return watch.seen


class _Watch:
    """A graph that is run to look at inner tensors."""

    def __init__(self, model: onnx.ModelProto, tensors: Sequence[str]) -> None:
        self.seen = {name: Activations() for name in tensors}
        watched = onnx.ModelProto()
        watched.CopyFrom(model)
        present = {item.name for item in watched.graph.output}
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in present)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Adds what these inputs make of the tensors."""
        for activations, values in zip(
            self.seen.values(), self._session.run(list(self.seen), feeds), strict=True
        ):
            activations.see(values)
