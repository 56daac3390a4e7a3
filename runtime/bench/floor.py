"""The least time that a graph can take here: its operators' work over what this machine reaches.

onnxruntime's profiler names each node that really runs, after its own optimization, with the shapes and
bytes of what goes in and out. From those follow the operations of each product, and the bytes of each node;
its times are not used. A graph of other operators for the same result may have a lower floor.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiloword.runtime.bench.peaks import Peaks
from kiloword.runtime.sessions import session_options

if TYPE_CHECKING:
    from kiloword.runtime.sessions import Tensors

BYTE_PRODUCTS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "FusedConv", "QLinearConv"})
_FLOAT_PRODUCTS = frozenset({"Conv", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"})
_ATTENTION = frozenset({"Attention", "MultiHeadAttention"})
PRODUCTS = BYTE_PRODUCTS | _FLOAT_PRODUCTS | _ATTENTION

Shape = tuple[int, ...]


@dataclass(frozen=True)
class NodeRun:
    """One node that ran."""

    operator: str
    operations: int
    """Multiplications and additions of a product; 0 of anything else."""
    weight_bytes: int
    """Constants that it reads."""
    bytes: int
    """All that it reads and writes, constants included."""


@dataclass(frozen=True)
class Floor:
    """The least time of one run of a graph, with one thread, in milliseconds."""

    byte_products_ms: float
    float_products_ms: float
    others_ms: float
    """Nodes that only move and change numbers, at the rate of the cache; better graphs have fewer."""

    @property
    def total_ms(self) -> float:
        """All of it."""
        return round(self.byte_products_ms + self.float_products_ms + self.others_ms, 3)


@dataclass(frozen=True)
class GraphWork:
    """What one run of a graph consists of."""

    nodes: int
    byte_operations: int
    float_operations: int
    weight_bytes: int
    """Constants that are read."""
    bytes: int
    """All that its nodes read and write."""
    operators: Mapping[str, int]
    """How many nodes of each kind."""


def nodes_of(path: Path, feeds: Tensors) -> list[NodeRun]:
    """Run a graph once and list its nodes as they ran.

    Args:
        path: The ONNX file.
        feeds: Its inputs.
    """
    import onnxruntime

    options = session_options(1)
    options.enable_profiling = True
    # Weights that were packed are gone from a node's inputs, and their bytes with them.
    options.add_session_config_entry("session.disable_prepacking", "1")
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [_node_run(event["args"]) for event in events if _is_node(event)]


def work_of(nodes: Sequence[NodeRun]) -> GraphWork:
    """Add up the nodes of one run."""
    operators = [node.operator for node in nodes]
    return GraphWork(
        nodes=len(nodes),
        byte_operations=sum(node.operations for node in nodes if node.operator in BYTE_PRODUCTS),
        float_operations=sum(node.operations for node in nodes if node.operator not in BYTE_PRODUCTS),
        weight_bytes=sum(node.weight_bytes for node in nodes),
        bytes=sum(node.bytes for node in nodes),
        operators={name: operators.count(name) for name in sorted(set(operators))},
    )


def floor_of(nodes: Sequence[NodeRun], peaks: Peaks) -> Floor:
    """The least time of one run.

    Each node takes the longer of its operations at the peak rate and its bytes: constants come from where a
    model's weights lie, everything else from the cache.
    """
    times = {"bytes": 0.0, "floats": 0.0, "others": 0.0}
    for node in nodes:
        is_bytes = node.operator in BYTE_PRODUCTS
        rate = peaks.byte_gops if is_bytes else peaks.float_gops
        moving = node.weight_bytes / peaks.model_gbps
        moving += (node.bytes - node.weight_bytes) / peaks.cache_gbps
        kind = "bytes" if is_bytes else "floats" if node.operator in PRODUCTS else "others"
        times[kind] += max(node.operations / rate, moving) / 1e6
    return Floor(*(round(times[kind], 4) for kind in ("bytes", "floats", "others")))


def _is_node(event: Mapping[str, Any]) -> bool:
    return event.get("cat") == "Node" and str(event.get("name")).endswith("_kernel_time")


def _node_run(facts: Mapping[str, Any]) -> NodeRun:
    operator = str(facts["op_name"])
    inputs, outputs = _shapes(facts["input_type_shape"]), _shapes(facts["output_type_shape"])
    weights = int(facts["parameter_size"])
    return NodeRun(
        operator,
        operations_of(operator, inputs, outputs),
        weights,
        weights + int(facts["activation_size"]) + int(facts["output_size"]),
    )


def _shapes(listed: Sequence[Mapping[str, Sequence[int]]]) -> list[Shape]:
    return [tuple(shape) for one in listed for shape in one.values()]


def operations_of(operator: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Multiplications and additions of a node; 0 of what is no product.

    Args:
        operator: Its type.
        inputs: Shapes of its inputs, left-out ones missing.
        outputs: Shapes of its outputs.

    >>> operations_of("MatMul", [(1, 10, 64), (64, 32)], [(1, 10, 32)])
    40960
    """
    if operator not in PRODUCTS or not inputs:
        return 0
    results = math.prod(outputs[0])
    if operator in _CONVOLUTIONS:
        # Quantized ones have the scale and zero point of the input before the weights.
        weights = next(shape for shape in inputs[1:] if len(shape) > 2)
        return 2 * results * math.prod(weights[1:])
    if operator in _ATTENTION:
        keys = outputs[1] if len(outputs) > 2 else inputs[1]
        return 4 * math.prod(inputs[0]) * keys[-2]
    return 2 * results * inputs[0][-1]
