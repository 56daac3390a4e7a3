"""The most that one core does here: products of floats and of bytes through onnxruntime, and bytes read."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kiloword.runtime.bench.tiny_graphs import one_operator
from kiloword.runtime.sessions import session_options

_EDGE = 768
"""Rows and columns of the products: large enough that nothing but multiplying counts."""
_SECONDS = 0.15
_CACHE_BYTES = 256 << 10
_MODEL_BYTES = 8 << 20
_MEMORY_BYTES = 256 << 20


@dataclass(frozen=True)
class Peaks:
    """What one thread reaches; the best of many tries, for a peak is what was possible."""

    float_gops: float
    """10^9 multiplications and additions of float32 a second, in one large product."""
    byte_gops: float
    """The same of uint8 times int8."""
    cache_gbps: float
    """10^9 bytes read a second from 256 KiB."""
    model_gbps: float
    """From 8 MiB, which is what a small model's weights are."""
    memory_gbps: float
    """From 256 MiB, which no cache holds."""


def measure_peaks() -> Peaks:
    """Measure with one thread; takes some seconds."""
    return Peaks(
        float_gops=_product_gops("MatMul", "float32", "float32", "float32"),
        byte_gops=_product_gops("MatMulInteger", "uint8", "int8", "int32"),
        cache_gbps=_reading_gbps(_CACHE_BYTES),
        model_gbps=_reading_gbps(_MODEL_BYTES),
        memory_gbps=_reading_gbps(_MEMORY_BYTES),
    )


def _product_gops(operator: str, left: str, right: str, result: str) -> float:
    """The rate of a square product whose right side is a constant, as weights are."""
    import onnxruntime

    square = (_EDGE, _EDGE)
    weights = np.random.default_rng(0).integers(-63, 64, square).astype(right)
    graph = one_operator(operator, {"a": (left, square)}, {"b": weights}, (result, square))
    session = onnxruntime.InferenceSession(graph, session_options(1), providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {"a": np.abs(weights).astype(left)}
    return _best(lambda: session.run(None, feeds), 2 * _EDGE**3)


def _reading_gbps(size_bytes: int) -> float:
    """The rate at which numpy reads an array: an operation for each eight bytes, as little as there is."""
    array = np.ones(size_bytes // 8, dtype=np.uint64)
    return _best(lambda: np.bitwise_or.reduce(array), size_bytes)


def _best(work: Callable[[], object], amount: int) -> float:
    """10^9 of an amount a second, in the fastest call of some tenths of a second."""
    fastest, until = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        started = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - started)
    return round(amount / fastest / 1e9, 1)
