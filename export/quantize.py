"""fp32 graphs to int8: how each matrix product is stored and computed, and why.

Encoder
    Static quantization: uint8 activations times int8 weights with a scale for each output channel. The ranges
    are measured once on photos, so that the result for a photo does not depend on what else is in its batch
    (dynamic ranges do). The result is float again, with the bias added by the same operator. Products whose
    input has *outliers* would lose everything else: ViT-Tiny feeds one of its 48 products values up to 216
    where 99.9 % are below 4, and quantizing that one product alone turned 9 % of error into 34 %. These few
    take 8-bit weights with activations quantized in blocks, as the decoder does.
    Convolutions stay in float32: MobileNetV2's 52 as ``QLinearConv``, with a scale for each channel and every
    sum in int8, took 0.79 of the time and put 32 % of error into the cells and 20 % into their mean (Flickr8k
    photos, ranges from 32 others), where ViT-Tiny's int8 has 14 %. The report counts them.
Decoder
    8-bit weights in blocks of 128 (``MatMulNBits``, activations quantized on the fly in blocks of a row):
    fastest at one photo, exact enough for choosing words, and independent of the batch. The token embedding
    is kept as int8 rows with a scale each.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from kiloword.export.calibration import Pixels, measure
from kiloword.export.simplify import drop_unused_initializers
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
    grids = {
        name: activations.scale_and_zero_point()
        for name, activations in seen.items()
        if not activations.has_outliers
    }
    outliers = [node.name for node in products if node.input[0] not in grids]
    logger.info("products with outliers: %s", ", ".join(outliers) or "none")
    _quantize_statically(model, [node for node in products if node.input[0] in grids], grids)
    _quantize_weights(model, target)
    return outliers


def count_convolutions(path: Path) -> int:
    """Convolutions of a graph; all of them compute with floats."""
    return sum(node.op_type == "Conv" for node in onnx.load(path).graph.node)


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
    matrices = {item.name for item in model.graph.initializer if len(item.dims) == 2}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in matrices]


def _quantize_statically(
    model: onnx.ModelProto, products: list[NodeProto], grids: Mapping[str, tuple[np.float32, np.uint8]]
) -> None:
    """Replaces each product and the bias added to it by one operator that multiplies bytes and gives floats.

    onnxruntime's own QDQ tools leave the bias outside and quantize attention's products as well: 24.5 ms
    against 21 ms, and 0.19 of error against 0.15, for ViT-Tiny.
    """
    graph = model.graph
    weights = {item.name: item for item in graph.initializer}
    # Nodes are told apart by their output, for it alone is sure to be there and to be unique.
    chosen = {node.output[0] for node in products}
    biases = _added_constants(graph, {node.output[0]: weights[node.input[1]].dims[1] for node in products})
    absorbed = {add.output[0] for add, _ in biases.values()}
    quantized: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.output[0] in absorbed:
            continue
        if node.output[0] not in chosen:
            nodes.append(node)
            continue
        source = node.input[0]
        if source not in quantized:
            nodes.append(_quantize_activation(graph, source, *grids[source]))
            quantized.add(source)
        add, bias = biases.get(node.output[0], (None, ""))
        if node.input[1] not in quantized:
            _store_int8_matrix(graph, weights[node.input[1]])
            quantized.add(node.input[1])
        inputs = [f"{source}_u8", *_scales_and_zero_points(node.input[1], source), bias]
        output = add.output[0] if add is not None else node.output[0]
        nodes.append(
            helper.make_node("MatMulIntegerToFloat", inputs, [output], name=node.name, domain=_CONTRIB_DOMAIN)
        )
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_initializers(graph)
    if all(item.domain != _CONTRIB_DOMAIN for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_CONTRIB_DOMAIN, 1))


def _quantize_activation(
    graph: onnx.GraphProto, name: str, scale: np.float32, zero_point: np.uint8
) -> NodeProto:
    graph.initializer.append(numpy_helper.from_array(np.array(scale), f"{name}_scale"))
    graph.initializer.append(numpy_helper.from_array(np.array(zero_point), f"{name}_zero_point"))
    inputs = [name, f"{name}_scale", f"{name}_zero_point"]
    return helper.make_node("QuantizeLinear", inputs, [f"{name}_u8"], name=f"{name}_quantize")


def _store_int8_matrix(graph: onnx.GraphProto, weight: TensorProto) -> None:
    """Stores a matrix as int8 with a scale for each column."""
    values, scales = int8_columns(numpy_helper.to_array(weight))
    graph.initializer.append(numpy_helper.from_array(values, f"{weight.name}_int8"))
    graph.initializer.append(numpy_helper.from_array(scales, f"{weight.name}_scales"))
    zeros = np.zeros(scales.size, np.int8)
    graph.initializer.append(numpy_helper.from_array(zeros, f"{weight.name}_zero_points"))


def _scales_and_zero_points(weight: str, source: str) -> tuple[str, ...]:
    """The inputs of ``MatMulIntegerToFloat`` from the matrix to its zero points."""
    return (
        f"{weight}_int8",
        f"{source}_scale",
        f"{weight}_scales",
        f"{source}_zero_point",
        f"{weight}_zero_points",
    )


def int8_columns(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix for products as int8: values -127..127, and a scale for each column that brings them back.

    x86 processors without VNNI (Intel before 2019, AMD before 2022) add the products of two neighbours in a
    column in 16 bits and cut off what does not fit: 255 * (127 + 127) does not, which puts 3 % of error into
    a typical product of ViT-Tiny and 12 % into one (computed, not run). With these scales every pair fits.
    They are a little coarser: 0.146 of error in the encoder's output instead of 0.140, and as many words
    equal to those of fp32.

    Args:
        matrix: float32 (rows, columns).

    Returns:
        int8 (rows, columns) and float32 (columns,).
    """
    neighbours = np.concatenate([matrix, np.zeros((len(matrix) % 2, matrix.shape[1]), matrix.dtype)])
    sums = [np.maximum(sign * neighbours, 0).reshape(-1, 2, matrix.shape[1]).sum(axis=1) for sign in (1, -1)]
    largest_pair = np.maximum(*sums).max(axis=0)
    # Rounding adds at most 1 to a pair, and 255 * 128 is the most that fits.
    return _rounded(matrix, np.maximum(np.abs(matrix).max(axis=0) / 127, largest_pair / 127.5))


def int8_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A table for look-ups as int8: values -127..127 (rows, columns), and scales (rows, 1)."""
    return _rounded(table, np.abs(table).max(axis=1, keepdims=True) / 127)


def _rounded(
    values: NDArray[np.float32], scales: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    scales = np.maximum(scales, np.finfo(np.float32).tiny).astype(np.float32)
    return np.round(values / scales).astype(np.int8), scales


def _added_constants(graph: onnx.GraphProto, widths: Mapping[str, int]) -> dict[str, tuple[NodeProto, str]]:
    """For each product that nothing but a constant vector is added to: the Add, and the vector's name.

    Args:
        graph: has the products.
        widths: columns of each product, by the name of its output.
    """
    vectors = {item.name: item.dims[0] for item in graph.initializer if len(item.dims) == 1}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(item.name for item in graph.output)
    found = {}
    for node in graph.node:
        if node.op_type == "Add":
            for product, other in (tuple(node.input), tuple(reversed(node.input))):
                if product in widths and vectors.get(other) == widths[product] and readers[product] == 1:
                    found[product] = (node, other)
    return found


def _quantize_weights(model: onnx.ModelProto, target: Path) -> None:
    """Turns every product that still has a constant float matrix into ``MatMulNBits``; saves the graph."""
    with _quiet():
        from onnxruntime.quantization import matmul_nbits_quantizer as tools

        config = tools.DefaultWeightOnlyQuantConfig(
            block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=_INT8_ACCURACY_LEVEL, bits=8
        )
        quantizer = tools.MatMulNBitsQuantizer(model, algo_config=config)
        quantizer.process()
    onnx.save(quantizer.model.model, target)


def _quantize_embeddings(model: onnx.ModelProto) -> None:
    """Float tables that are looked up by token id become int8 rows, each with a scale for after the look-up.

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
    drop_unused_initializers(model.graph)


def _int8_lookup(graph: onnx.GraphProto, node: NodeProto, table: TensorProto) -> Iterable[NodeProto]:
    values, scales = int8_rows(numpy_helper.to_array(table))
    rows, row_scales = f"{table.name}_int8", f"{table.name}_scales"
    graph.initializer.append(numpy_helper.from_array(values, rows))
    graph.initializer.append(numpy_helper.from_array(scales, row_scales))
    result, ids, name = node.output[0], node.input[1], node.name
    as_int8, as_float, their_scales = f"{result}_int8", f"{result}_cast", f"{result}_scales"
    return (
        helper.make_node("Gather", [rows, ids], [as_int8], name=f"{name}_int8"),
        helper.make_node("Cast", [as_int8], [as_float], name=f"{name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Gather", [row_scales, ids], [their_scales], name=f"{name}_scales"),
        helper.make_node("Mul", [as_float, their_scales], [result], name=name),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps onnxruntime's quantizer from giving the root logger a handler and from reporting each node."""
    previous, handlers, level = logging.root.manager.disable, logging.root.handlers[:], logging.root.level
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


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
        options.log_severity_level = 4  # it warns that the graph fits this processor only, which is the point
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(options.optimized_model_filepath).graph
    constants = {item.name for item in graph.initializer}
    integer = sum(node.op_type in INTEGER_OPERATORS for node in graph.node)
    floats = sum(node.op_type in _FLOAT_OPERATORS and node.input[1] in constants for node in graph.node)
    return integer, floats
