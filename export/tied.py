"""One table for both ends of a decoder: its token embedding is often its output matrix, too."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def tied_tables(model: onnx.ModelProto) -> dict[str, str]:
    """Token embeddings that some product multiplies by again, transposed.

    Exported graphs hold such a table twice, once for each use.

    Args:
        model: float32, with products in the form that `export.products.prepare_products` gives them.

    Returns:
        For the name of each table (words, width) that is looked up the name of its equal (width, words).
    """
    weights = {item.name: item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT}
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    multiplied = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    return {
        table: matrix
        for table in sorted(looked_up & weights.keys())
        for matrix in sorted(multiplied & weights.keys())
        if _are_equal(weights[table], weights[matrix])
    }


def _are_equal(table: TensorProto, matrix: TensorProto) -> bool:
    if len(table.dims) != 2 or list(table.dims) != list(reversed(matrix.dims)):
        return False
    return np.array_equal(numpy_helper.to_array(table), numpy_helper.to_array(matrix).T)


def store_once(model: onnx.ModelProto, table: str, matrix: str) -> bool:
    """Stores the int8 rows of a table alone; the matrix becomes their transpose.

    onnxruntime transposes when it loads the graph (1 MB in 0.3 ms; reading it twice takes as long), and
    a look-up finds its row in one piece: columns of the matrix itself, which need no transposing, made a
    step of the bundle in the package 4 to 8 % slower.

    Args:
        model: changed in place.
        table: name of the float table (words, width), which `tied_tables` found.
        matrix: its equal, which `export.products.replace_products` stored as ``{matrix}_int8`` and
            ``{matrix}_scales``, or not.

    Returns:
        Whether ``{table}_int8`` (words, width) and ``{table}_scales`` (words, 1) are there now.
    """
    graph = model.graph
    weights = {item.name: item for item in graph.initializer}
    stored, scales = weights.get(f"{matrix}_int8"), weights.get(f"{matrix}_scales")
    if stored is None or scales is None:
        return False
    rows = np.ascontiguousarray(numpy_helper.to_array(stored).T)
    graph.initializer.append(numpy_helper.from_array(rows, f"{table}_int8"))
    row_scales = numpy_helper.to_array(scales)[:, None]
    graph.initializer.append(numpy_helper.from_array(row_scales, f"{table}_scales"))
    graph.initializer.remove(stored)
    graph.node.insert(0, helper.make_node("Transpose", [f"{table}_int8"], [f"{matrix}_int8"], perm=[1, 0]))
    return True
