"""Ranges of the activations of a graph, measured on photos, and which of them no single range can hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

OUTLIER_RATIO = 12.0
"""A tensor has outliers when its largest value is this many times its 99.9th percentile."""
_SAMPLES_PER_PHOTO = 8192
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4)


@dataclass
class Activations:
    """What was seen of one tensor."""

    lowest: float = 0.0
    """Least value, at most 0: zero must be representable."""
    highest: float = 0.0
    """Largest value, at least 0."""
    samples: list[Floats] = field(default_factory=list)
    """A random part of the values, the same number from each photo."""
    usual: float = 0.0
    """The largest 99.9th percentile of the magnitude in any photo."""

    def see(self, values: Floats, random: np.random.Generator) -> None:
        """Adds the values of one photo."""
        flat = values.reshape(-1).astype(np.float32)
        self.lowest, self.highest = min(self.lowest, float(flat.min())), max(self.highest, float(flat.max()))
        self.usual = max(self.usual, float(np.quantile(np.abs(flat), 0.999)))
        self.samples.append(flat[random.integers(len(flat), size=min(len(flat), _SAMPLES_PER_PHOTO))])

    @property
    def has_outliers(self) -> bool:
        """Whether a range that holds every value leaves too few steps for nearly all of them."""
        return max(self.highest, -self.lowest) > OUTLIER_RATIO * self.usual

    @property
    def are_bytes(self) -> bool:
        """Whether these are raw pixels, which a grid measured on dark photos would cut off or round."""
        whole = all(np.array_equal(values, np.round(values)) for values in self.samples)
        return whole and self.lowest == 0 and 1 < self.highest <= 255

    def scale_and_zero_point(self) -> tuple[np.float32, np.uint8]:
        """The uint8 grid with the least squared error over the samples; a little clipping often pays."""
        if self.are_bytes:
            return np.float32(1), np.uint8(0)
        values = np.concatenate([*self.samples, np.array([self.lowest, self.highest], np.float32)])
        grids = [_grid(self.lowest * clip, self.highest * clip) for clip in _CLIPS]
        return min(grids, key=lambda grid: _squared_error(values, *grid))


def _grid(lowest: float, highest: float) -> tuple[np.float32, np.uint8]:
    scale = np.float32(max((highest - lowest) / 255, 1e-8))
    return scale, np.uint8(np.clip(np.round(-lowest / scale), 0, 255))


def _squared_error(values: Floats, scale: np.float32, zero_point: np.uint8) -> float:
    steps = np.clip(np.round(values / scale) + zero_point, 0, 255) - zero_point
    return float(np.square(steps * scale - values).mean())


def measure(model: onnx.ModelProto, tensors: Sequence[str], photos: Pixels) -> dict[str, Activations]:
    """Runs photos through a graph and looks at inner tensors.

    Args:
        model: a graph with the one input ``pixels``.
        tensors: names of the tensors to look at.
        photos: uint8 (photos, height, width, 3).

    Returns:
        What was seen of each tensor.
    """
    random = np.random.default_rng(0)
    seen = {name: Activations() for name in tensors}
    for values in _run(model, list(seen), photos):
        for name, value in values.items():
            seen[name].see(value, random)
    return seen


def _run(model: onnx.ModelProto, names: list[str], photos: Pixels) -> Iterator[dict[str, Floats]]:
    """The values of inner tensors, one photo at a time."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    present = {item.name for item in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    graph = watched.SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    for index in range(len(photos)):
        values = session.run(names, {"pixels": photos[index : index + 1]})
        yield dict(zip(names, values, strict=True))
