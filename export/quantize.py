"""fp32 graphs to int8: how each matrix product is stored and computed, and why.

Encoder
    Static quantization: uint8 activations times int8 weights with a scale for each output channel. The ranges are
    measured once on photos, so that the result for a photo does not depend on what else is in its batch (dynamic
    ranges do). The result is float again, with the bias added by the same operator. Products whose input has
    *outliers* would lose everything else: ViT-Tiny feeds one of its 48 products values up to 216 where 99.9 % are
    below 4, and quantizing that one product alone turned 9 % of error into 34 %. These few take 8-bit weights with
    activations quantized in blocks, as the decoder does.
Decoder
    8-bit weights in blocks of 128 (``MatMulNBits``, activations quantized on the fly in blocks of a row): fastest at
    one photo, exact enough for choosing words, and independent of the batch. The token embedding is kept as int8
    rows with a scale each.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from kiloword.export.calibration import Pixels, measure
from kiloword.runtime.errors import ExportError

logger = logging.getLogger(__name__)

BLOCK_SIZE = 128
"""Weights that share a scale in 8-bit weight-only products."""
_INT8_ACCURACY_LEVEL = 4  # onnxruntime's number for: multiply in int8
_SMALLEST_TABLE = 64
_CONTRIB_DOMAIN = "com.microsoft"


def quantize_encoder(source: Path, target: Path, photos: Pixels) -> list[str]:
    """Static int8 for all matrix products, but for those with outliers in their input.

    Args:
        source: fp32 ONNX file with the one input ``pixels``.
        target: the int8 ONNX file to write.
        photos: uint8 (photos, height, width, 3), to measure ranges on; some dozens are enough.

    Returns:
        Names of the products that have outliers.

    Raises:
        ExportError: there are no photos to measure on.
    """
    if len(photos) == 0:
        raise ExportError("quantization needs photos to measure ranges on", hint="--calibration FOLDER")
    model = onnx.load(source)
    products = constant_products(model)
    seen = measure(model, sorted({node.input[0] for node in products}), photos)
    outliers = [node.name for node in products if seen[node.input[0]].has_outliers]
    logger.info("products with outliers: %s", ", ".join(outliers) or "none")
    grids = {name: activations.scale_and_zero_point() for name, activations in seen.items()}
    _quantize_statically(model, [node for node in products if node.name not in outliers], grids)
    _quantize_weights(model, target)
    return outliers


def quantize_decoder(source: Path, target: Path) -> None:
    """8-bit weights for all matrix products, int8 rows for the token embedding.

    Args:
        source: fp32 ONNX file.
        target: the int8 ONNX file to write.
    """
    model = onnx.load(source)
    _quantize_embeddings(model)
    _quantize_weights(model, target)


def constant_products(model: onnx.ModelProto) -> list[NodeProto]:
    """The products of something with a constant matrix, in the graph's order."""
    constants = {item.name for item in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constants]


def _quantize_statically(
    model: onnx.ModelProto, products: list[NodeProto], grids: dict[str, tuple[np.float32, np.uint8]]
) -> None:
    """Replaces each product, and the bias added to it, by one operator that multiplies bytes and returns floats.

    onnxruntime's own QDQ tools leave the bias outside and quantize attention's products as well: 24.5 ms against
    21 ms, and 0.19 of error against 0.15, for ViT-Tiny.
    """
    graph = model.graph
    weights = {item.name: item for item in graph.initializer}
    biases = _added_constants(graph, {node.output[0] for node in products})
    chosen = {node.name for node in products}
    absorbed = {add.name for add, _ in biases.values()}
    quantized: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.name in absorbed:
            continue
        if node.name not in chosen:
            nodes.append(node)
            continue
        source = node.input[0]
        if source not in quantized:
            nodes.append(_quantize_activation(graph, source, *grids[source]))
            quantized.add(source)
        add, bias = biases.get(node.output[0], (None, ""))
        inputs = [f"{source}_u8", *_int8_matrix(graph, weights[node.input[1]], source), bias]
        output = add.output[0] if add is not None else node.output[0]
        nodes.append(
            helper.make_node("MatMulIntegerToFloat", inputs, [output], name=node.name, domain=_CONTRIB_DOMAIN)
        )
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused_initializers(graph)
    if all(item.domain != _CONTRIB_DOMAIN for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_CONTRIB_DOMAIN, 1))


def _quantize_activation(graph: onnx.GraphProto, name: str, scale: np.float32, zero_point: np.uint8) -> NodeProto:
    graph.initializer.append(numpy_helper.from_array(np.array(scale), f"{name}_scale"))
    graph.initializer.append(numpy_helper.from_array(np.array(zero_point), f"{name}_zero_point"))
    inputs = [name, f"{name}_scale", f"{name}_zero_point"]
    return helper.make_node("QuantizeLinear", inputs, [f"{name}_u8"], name=f"{name}_quantize")


def _int8_matrix(graph: onnx.GraphProto, weight: TensorProto, source: str) -> list[str]:
    """Stores a matrix as int8 with a scale for each column; returns the operator's inputs from ``B`` to ``b_zero_point``."""
    values, scales = symmetric_int8(numpy_helper.to_array(weight), axis=0)
    names = [f"{weight.name}_{part}" for part in ("int8", "scales", "zero_points")]
    arrays = (values, scales.reshape(-1), np.zeros(scales.size, np.int8))
    graph.initializer.extend(numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True))
    return [names[0], f"{source}_scale", names[1], f"{source}_zero_point", names[2]]


def symmetric_int8(weights: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 values -127..127 and the scales that bring them back; one scale for all values along ``axis``."""
    largest = np.abs(weights).max(axis=axis, keepdims=True)
    scales = np.maximum(largest / 127, np.finfo(np.float32).tiny).astype(np.float32)
    return np.round(weights / scales).astype(np.int8), scales


def _added_constants(graph: onnx.GraphProto, outputs: set[str]) -> dict[str, tuple[NodeProto, str]]:
    """For each product that only a constant vector is added to: the Add, and the vector's name."""
    vectors = {item.name for item in graph.initializer if len(item.dims) == 1}
    readers = Counter(name for node in graph.node for name in node.input)
    found = {}
    for node in graph.node:
        if node.op_type == "Add":
            for product, other in (tuple(node.input), tuple(reversed(node.input))):
                if product in outputs and other in vectors and readers[product] == 1:
                    found[product] = (node, other)
    return found


def _drop_unused_initializers(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {item.name for item in graph.output}
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _quantize_weights(model: onnx.ModelProto, target: Path) -> None:
    """Turns every product that still has a constant float matrix into ``MatMulNBits``, and saves the graph."""
    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=_INT8_ACCURACY_LEVEL, bits=8
    )
    with _quiet():
        quantizer = MatMulNBitsQuantizer(model, algo_config=config)
        quantizer.process()
    onnx.save(quantizer.model.model, target)


def _quantize_embeddings(model: onnx.ModelProto) -> None:
    """Float tables that are looked up by token id become int8 rows, each with a scale, multiplied after the look-up.

    Small tables are left as they are: positions are few and precise.
    """
    tables = {item.name: item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or len(table.dims) != 2 or table.dims[0] < _SMALLEST_TABLE:
            nodes.append(node)
        else:
            nodes.extend(_int8_lookup(model.graph, node, table))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _drop_unused_initializers(model.graph)


def _int8_lookup(graph: onnx.GraphProto, node: NodeProto, table: TensorProto) -> Iterable[NodeProto]:
    values, scales = symmetric_int8(numpy_helper.to_array(table), axis=1)
    rows, row_scales = f"{table.name}_int8", f"{table.name}_scales"
    graph.initializer.extend((numpy_helper.from_array(values, rows), numpy_helper.from_array(scales, row_scales)))
    result, ids = node.output[0], node.input[1]
    return (
        helper.make_node("Gather", [rows, ids], [f"{result}_int8"], name=f"{node.name}_int8"),
        helper.make_node("Cast", [f"{result}_int8"], [f"{result}_cast"], name=f"{node.name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Gather", [row_scales, ids], [f"{result}_scales"], name=f"{node.name}_scales"),
        helper.make_node("Mul", [f"{result}_cast", f"{result}_scales"], [result], name=node.name),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantizer reports each node through the root logger."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)


INTEGER_OPERATORS = frozenset(
    {
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "QLinearMatMul",
        "QGemm",
        "MatMulNBits",
        "ConvInteger",
        "QLinearConv",
        "QAttention",
    }
)
"""onnxruntime's operators that multiply bytes."""
_FLOAT_OPERATORS = frozenset({"MatMul", "Gemm", "FusedMatMul", "Conv", "FusedConv", "FusedGemm"})


def count_products(path: Path) -> tuple[int, int]:
    """Counts matrix products in the graph as onnxruntime really runs it, after its own optimization.

    Args:
        path: an ONNX file.

    Returns:
        Products that multiply bytes, and products with a constant matrix that still multiply floats.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # it warns that the saved graph fits this processor only, which is the point
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath).graph
    constants = {item.name for item in graph.initializer}
    integer = sum(node.op_type in INTEGER_OPERATORS for node in graph.node)
    floats = sum(node.op_type in _FLOAT_OPERATORS and node.input[1] in constants for node in graph.node)
    return integer, floats
