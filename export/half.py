"""An fp16 bundle from an fp32 one, for GPUs: half the bytes; what passes from graph to graph is halves, too.

On a processor it gains nothing: onnxruntime computes most of it in float32 and converts to and fro. It is
checked there all the same, for that is what is at hand; on another provider by `kiloword export --check-on`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from kiloword.export.card import CARD_FILE, variant_card
from kiloword.export.graph_files import copy_beside_graphs, save_graph
from kiloword.export.trial import Contestant, Pixels, agreement
from kiloword.runtime.bundle import Bundle, load_bundle, write_manifest
from kiloword.runtime.errors import ExportError, ParityError
from kiloword.runtime.manifest import STATE_ROLES, GraphSpec

logger = logging.getLogger(__name__)

LARGEST_ERROR = 0.02
"""Relative error of an encoding; ViT-Tiny has 0.0008."""
SMALLEST_AGREEMENT = 0.8
"""Share of words equal to those of fp32; ViT-Tiny has 1.0."""
_HALVES = ("context", *STATE_ROLES)
_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class HalfReport:
    """fp16 beside fp32."""

    photos: int
    largest_error: float
    """Of an encoding, relative to it."""
    equal_captions: float
    equal_words: float


def half_bundle(source: Path, target: Path, pixels: Pixels) -> Bundle:
    """Makes an fp16 bundle and compares it with fp32, on the processor.

    Args:
        source: directory of the fp32 bundle.
        target: directory to write; must not be there yet.
        pixels: uint8 (photos, height, width, 3), to compare on.

    Raises:
        ExportError: the source is not fp32, or a weight is too large for a half.
        ParityError: fp16 says something else than fp32.
    """
    fp32 = load_bundle(source)
    manifest = fp32.manifest
    if manifest.precision != "fp32":
        raise ExportError(
            "cannot become fp16", path=source, expected="a bundle in fp32", found=manifest.precision
        )
    target.mkdir(parents=True)
    copy_beside_graphs(fp32, target)
    half = replace(
        manifest,
        precision="fp16",
        encoder=_half_spec(manifest.encoder),
        decoder=_half_spec(manifest.decoder),
        reliability=None,
        checked_providers=("cpu",),
    )
    for spec, path in ((half.encoder, fp32.encoder_path), (half.decoder, fp32.decoder_path)):
        halves = {tensor.name for tensor in (*spec.inputs, *spec.outputs) if tensor.dtype == "float16"}
        save_graph(half_graph(onnx.load(path), halves), target / spec.file)
    write_manifest(target, half)
    report = _compare(fp32.directory, target, pixels)
    text = "\n".join(f"{name}: {value}" for name, value in asdict(report).items())
    card = source / CARD_FILE
    if card.is_file():
        described = variant_card(card.read_text(encoding="utf-8"), "fp32", "fp16", text)
        (target / CARD_FILE).write_text(described, encoding="utf-8")
    return write_manifest(target, replace(half, report={**half.report, "fp16": asdict(report)}))


def _half_spec(spec: GraphSpec) -> GraphSpec:
    """What passes from graph to graph becomes halves; logits and where it looked stay float32."""
    inputs, outputs = (
        tuple(
            replace(tensor, dtype="float16")
            if tensor.role in _HALVES and tensor.dtype == "float32"
            else tensor
            for tensor in side
        )
        for side in (spec.inputs, spec.outputs)
    )
    return replace(spec, inputs=inputs, outputs=outputs)


def half_graph(model: onnx.ModelProto, halves: Collection[str]) -> onnx.ModelProto:
    """Converts a graph to fp16.

    Args:
        model: in fp32; is changed.
        halves: names of the inputs and outputs that are halves; the others keep their type.

    Raises:
        ExportError: a weight is too large for a half.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    for item in model.graph.initializer:
        if item.data_type == TensorProto.FLOAT:
            largest = float(np.abs(onnx.numpy_helper.to_array(item)).max(initial=0))
            if np.isfinite(largest) and largest > _LARGEST_HALF:
                raise ExportError(
                    f"a weight of {item.name} is too large for fp16",
                    expected=f"at most {_LARGEST_HALF:g}",
                    found=f"{largest:g}",
                    hint="--precision fp32",
                )
    whole = [item.name for item in (*model.graph.input, *model.graph.output) if item.name not in halves]
    converted: onnx.ModelProto = convert_float_to_float16(
        model, keep_io_types=whole, disable_shape_infer=False
    )
    return converted


def _compare(fp32: Path, fp16: Path, pixels: Pixels) -> HalfReport:
    exact, half = Contestant(fp32), Contestant(fp16)
    texts: tuple[list[str], list[str]] = ([], [])
    worst = 0.0
    for index in range(len(pixels)):
        photo = pixels[index : index + 1]
        encoded = [one.encode(photo) for one in (exact, half)]
        worst = max(worst, *(_error(encoded[1][name], value) for name, value in encoded[0].items()))
        for one, tensors, found in zip((exact, half), encoded, texts, strict=True):
            found.append(one.text(one.write(tensors)[0]))
    equal_captions, equal_words = agreement(*texts)
    report = HalfReport(len(pixels), round(worst, 5), equal_captions, equal_words)
    logger.info(
        "fp16 against fp32 on %d photos: %.2g of error, %.0f%% of captions and %.0f%% of words equal",
        *(len(pixels), worst, 100 * equal_captions, 100 * equal_words),
    )
    if not worst <= LARGEST_ERROR or equal_words < SMALLEST_AGREEMENT:
        raise ParityError(
            "fp16 says other things than fp32",
            expected=f"at most {LARGEST_ERROR} of error and {SMALLEST_AGREEMENT:.0%} equal words or more",
            found=f"{worst:.2g} and {equal_words:.0%}",
            hint="--precision fp32",
        )
    return report


def _error(found: NDArray[np.float16], expected: NDArray[np.float32]) -> float:
    difference = np.linalg.norm(found.astype(np.float32) - expected)
    return float(difference / max(float(np.linalg.norm(expected)), 1e-12))
