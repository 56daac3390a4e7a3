"""Rewrites keep every result: the graph before and after, run by onnxruntime on the same input."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kiloword.export.simplify import part_products

RANDOM = np.random.default_rng(0)
MATRIX = RANDOM.standard_normal((6, 9)).astype(np.float32)
VECTOR = RANDOM.standard_normal(9).astype(np.float32)
VALUES = RANDOM.standard_normal((2, 5, 6)).astype(np.float32)


def graph(
    *, bias: bool = True, axis: int = -1, sizes: list[int] | None = None, whole_is_output: bool = False
) -> onnx.ModelProto:
    """x @ MATRIX (+ VECTOR), split into y0, y1, y2."""
    initializers = [numpy_helper.from_array(MATRIX, "matrix"), numpy_helper.from_array(VECTOR, "vector")]
    nodes = [helper.make_node("MatMul", ["x", "matrix"], ["product"], name="product")]
    whole = "product"
    if bias:
        nodes.append(helper.make_node("Add", ["vector", "product"], ["sum"], name="sum"))
        whole = "sum"
    parts = ["y0", "y1", "y2"]
    if sizes:
        initializers.append(numpy_helper.from_array(np.array(sizes, np.int64), "sizes"))
        nodes.append(helper.make_node("Split", [whole, "sizes"], parts, axis=axis))
    else:
        nodes.append(helper.make_node("Split", [whole], parts, axis=axis, num_outputs=3))
    outputs = [*parts, *([whole] if whole_is_output else [])]
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 6])],
        [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, ["batch", f"{name}_length", f"{name}_width"]
            )
            for name in outputs
        ],
        initializers,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results: list[NDArray[np.float32]] = session.run(None, {"x": VALUES})
    return results


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [None, [2, 3, 4]])
def test_parted_products_give_the_same(bias: bool, sizes: list[int] | None) -> None:
    model = graph(bias=bias, sizes=sizes)
    expected = run(model)
    assert part_products(model) == 1
    onnx.checker.check_model(model)
    assert not {"Split"} & {node.op_type for node in model.graph.node}
    assert sum(node.op_type == "MatMul" for node in model.graph.node) == 3
    assert "matrix" not in {item.name for item in model.graph.initializer}
    for before, after in zip(expected, run(model), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


def test_what_something_else_reads_stays_whole() -> None:
    model = graph(whole_is_output=True)
    assert part_products(model) == 0
    assert model.graph == graph(whole_is_output=True).graph


def test_a_cut_along_another_axis_stays() -> None:
    model = graph(axis=1, sizes=[1, 2, 2])
    expected = run(model)
    assert part_products(model) == 0
    for before, after in zip(expected, run(model), strict=True):
        np.testing.assert_array_equal(after, before)
