"""Products of every form are found and become one form; bytes that cannot overflow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")

import onnxruntime  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from kiloword.export.integers import int8_columns  # noqa: E402
from kiloword.export.operators import products_that_run  # noqa: E402
from kiloword.export.products import constant_products, prepare_products, replace_products  # noqa: E402

Floats = NDArray[np.float32]


def make_graph() -> onnx.ModelProto:
    """A Gemm with a transposed matrix and a bias, and a tied output matrix: a product with a Transpose."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.standard_normal((24, 16)).astype(np.float32),
        "b": random.standard_normal(24).astype(np.float32),
        "table": random.standard_normal((80, 24)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="gemm", transB=1),
        helper.make_node("Transpose", ["table"], ["tied"], perm=[1, 0]),
        helper.make_node("MatMul", ["h", "tied"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "forms",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 80])],
        initializer=[numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, rows: int = 5) -> Floats:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((rows, 16)).astype(np.float32)
    result: Floats = session.run(None, {"x": x})[0]
    return result


def test_every_form_becomes_a_product_with_a_constant() -> None:
    """Neither was one before; the values stay."""
    model = make_graph()
    before = run(model)
    assert constant_products(model) == []
    prepare_products(model)
    onnx.checker.check_model(model)
    assert [node.name for node in constant_products(model)] == ["gemm", "head"]
    np.testing.assert_allclose(run(model), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduce_range", [False, True])
def test_dynamic_products_run_in_bytes(tmp_path: Path, reduce_range: bool) -> None:
    """Both, the bias inside, in the graph that onnxruntime runs; some 1 % of error, 2 % with 7 bits."""
    model = make_graph()
    exact = run(model)
    prepare_products(model)
    replace_products(model, constant_products(model), None, reduce_range=reduce_range)
    onnx.save(model, tmp_path / "small.onnx")
    found = products_that_run(tmp_path / "small.onnx")
    assert (found.integer_products, found.float_products) == (2, 0)
    error = np.linalg.norm(run(model) - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.03


def test_seven_bits() -> None:
    """Any two of them, times 255, fit into 16 bits."""
    matrix = np.random.default_rng(0).standard_normal((64, 40)).astype(np.float32)
    values, scales = int8_columns(matrix, reduce_range=True)
    assert np.abs(values.astype(int)).max() == 63
    assert 255 * 2 * 64 <= 32767
    assert np.abs(values * scales - matrix).max() <= 0.51 * scales.max()
