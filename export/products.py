"""Products of something with a constant matrix: found, made alike, and replaced by products of bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from kiloword.export.integers import int8_columns
from kiloword.export.simplify import drop_unused_initializers

CONTRIB_DOMAIN = "com.microsoft"
Grid = tuple[np.float32, np.uint8]
"""Scale and zero point of a uint8 activation."""


def constant_products(model: onnx.ModelProto) -> list[NodeProto]:
    """The products of something with a constant float matrix, in the graph's order."""
    matrices = {item.name for item in model.graph.initializer if _is_float_matrix(item)}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in matrices]


def prepare_products(model: onnx.ModelProto) -> None:
    """Gives every product with a constant matrix one form, in place, without changing a result.

    A tied output matrix arrives as a transposed constant, and a layer whose input has two axes as ``Gemm``:
    a quantizer that looks for ``MatMul`` with a constant passes over both, the largest matrix of all too.
    """
    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "Transpose" and _is_float_matrix(constants.get(node.input[0])):
            _store_transposed(graph, constants[node.input[0]], node.output[0])
        elif node.op_type == "Gemm" and _is_plain_gemm(node, constants):
            nodes.extend(_product_and_sum(graph, node, constants))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_initializers(graph)


def _is_float_matrix(item: TensorProto | None) -> bool:
    return item is not None and len(item.dims) == 2 and item.data_type == TensorProto.FLOAT


def _store_transposed(graph: onnx.GraphProto, matrix: TensorProto, name: str) -> None:
    values = np.ascontiguousarray(numpy_helper.to_array(matrix).T)
    graph.initializer.append(numpy_helper.from_array(values, name))


def _is_plain_gemm(node: NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """A B + C with a constant B, B perhaps transposed."""
    facts = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    plain = facts.get("alpha", 1.0) == 1 and facts.get("beta", 1.0) == 1 and not facts.get("transA", 0)
    return plain and _is_float_matrix(constants.get(node.input[1]))


def _product_and_sum(
    graph: onnx.GraphProto, node: NodeProto, constants: Mapping[str, TensorProto]
) -> Iterable[NodeProto]:
    result, matrix, name = node.output[0], node.input[1], node.name or node.output[0]
    if any(item.name == "transB" and item.i for item in node.attribute):
        transposed = f"{matrix}.transposed"
        if all(item.name != transposed for item in graph.initializer):
            _store_transposed(graph, constants[matrix], transposed)
        matrix = transposed
    if len(node.input) < 3 or not node.input[2]:
        return (helper.make_node("MatMul", [node.input[0], matrix], [result], name=name),)
    product = f"{result}.product"
    return (
        helper.make_node("MatMul", [node.input[0], matrix], [product], name=name),
        helper.make_node("Add", [product, node.input[2]], [result], name=f"{name}.add"),
    )


def replace_products(
    model: onnx.ModelProto,
    products: list[NodeProto],
    grids: Mapping[str, Grid] | None,
    *,
    reduce_range: bool = False,
) -> None:
    """Replaces each product and the bias added to it by one operator that multiplies bytes and gives floats.

    onnxruntime's own QDQ tools leave the bias outside and quantize attention's products as well: 24.5 ms
    against 21 ms, and 0.19 of error against 0.15, for ViT-Tiny.

    Args:
        model: changed in place.
        products: nodes of it, from `constant_products`.
        grids: for the input of each product its uint8 grid; None: the range of what comes, each time anew.
        reduce_range: keep weights to 7 bits.
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
            nodes.append(_quantize_activation(graph, source, None if grids is None else grids[source]))
            quantized.add(source)
        add, bias = biases.get(node.output[0], (None, ""))
        if node.input[1] not in quantized:
            _store_int8_matrix(graph, weights[node.input[1]], reduce_range)
            quantized.add(node.input[1])
        inputs = [f"{source}_u8", *_scales_and_zero_points(node.input[1], source), bias]
        output = add.output[0] if add is not None else node.output[0]
        nodes.append(
            helper.make_node("MatMulIntegerToFloat", inputs, [output], name=node.name, domain=CONTRIB_DOMAIN)
        )
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_initializers(graph)
    if all(item.domain != CONTRIB_DOMAIN for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(CONTRIB_DOMAIN, 1))


def _quantize_activation(graph: onnx.GraphProto, name: str, grid: Grid | None) -> NodeProto:
    """The node that makes bytes of an activation; scale and zero point are constants or its outputs."""
    scale_and_zero_point = [f"{name}_scale", f"{name}_zero_point"]
    if grid is None:
        outputs = [f"{name}_u8", *scale_and_zero_point]
        return helper.make_node("DynamicQuantizeLinear", [name], outputs, name=f"{name}_quantize")
    for value, constant in zip(grid, scale_and_zero_point, strict=True):
        graph.initializer.append(numpy_helper.from_array(np.array(value), constant))
    inputs = [name, *scale_and_zero_point]
    return helper.make_node("QuantizeLinear", inputs, [f"{name}_u8"], name=f"{name}_quantize")


def _store_int8_matrix(graph: onnx.GraphProto, weight: TensorProto, reduce_range: bool) -> None:
    """Stores a matrix as int8 with a scale for each column."""
    values, scales = int8_columns(numpy_helper.to_array(weight), reduce_range=reduce_range)
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
