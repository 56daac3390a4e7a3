"""The operators that a graph has when it runs: onnxruntime's optimization may undo what a tool did before."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from kiloword.runtime.sessions import session_options

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


@dataclass(frozen=True)
class Products:
    """The products of a graph."""

    integer_operators: dict[str, int]
    """Those that multiply bytes, by operator."""
    float_products: int
    """Those with a constant matrix that still multiply floats; convolutions are among them."""

    @property
    def integer_products(self) -> int:
        """How many multiply bytes."""
        return sum(self.integer_operators.values())


def products_that_run(path: Path) -> Products:
    """Counts products in the graph as the runtime's session runs it, after onnxruntime's own optimization.

    Args:
        path: an ONNX file.
    """
    graph = _optimized(path).graph
    constants = {item.name for item in graph.initializer}
    integer = Counter(node.op_type for node in graph.node if node.op_type in INTEGER_OPERATORS)
    floats = sum(
        node.op_type in _FLOAT_OPERATORS and any(name in constants for name in node.input[:2])
        for node in graph.node
    )
    return Products(dict(sorted(integer.items())), floats)


def count_products(path: Path) -> tuple[int, int]:
    """Products that multiply bytes, and products with a constant matrix that still multiply floats."""
    found = products_that_run(path)
    return found.integer_products, found.float_products


def _optimized(path: Path) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads=1)
        options.log_severity_level = 4  # it warns that the graph fits this processor only, which is the point
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        # Weights beside the graph: optimized, they may be too many for one file.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath, load_external_data=False)
