"""Attention written out as products and a softmax, for runtimes without the operator of opset 23.

onnxruntime-openvino 1.24 refuses a whole graph for one ``Attention`` ("does not support the following
ONNX operations"), and onnxruntime computes it since 1.23 only. Written out, the same bundle runs on both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from kiloword.export.graph_files import save_graph
from kiloword.export.onnx_nodes import Nodes
from kiloword.export.trial import Contestant, Pixels
from kiloword.runtime.bundle import load_bundle, write_manifest
from kiloword.runtime.errors import ExportError, ParityError

TOLERANCE = 1e-3
"""Relative difference of an encoding: sums are added in another order, nothing else."""
_OPERATOR = "Attention"
_UNKNOWN = ("is_causal", "softcap", "qk_matmul_output_mode")


def write_attention_out(directory: Path, pixels: Pixels) -> int:
    """Rewrites both graphs of a bundle in place, and compares what it writes before and after.

    Args:
        directory: of the bundle.
        pixels: uint8 (photos, height, width, 3), to compare on.

    Returns:
        How many operators were written out.

    Raises:
        ExportError: an operator does something that is not known here.
        ParityError: the bundle computes something else than before.
    """
    bundle = load_bundle(directory)
    before = Contestant(directory)
    count = 0
    rewritten = {}
    for path in (bundle.encoder_path, bundle.decoder_path):
        model = onnx.load(path)
        count += expand_attention(model)
        rewritten[path] = model
    for path, model in rewritten.items():
        save_graph(model, path)
    write_manifest(directory, bundle.manifest)
    _compare(before, Contestant(directory), pixels)
    return count


def _compare(before: Contestant, after: Contestant, pixels: Pixels) -> None:
    for index in range(len(pixels)):
        photo = pixels[index : index + 1]
        wanted, found = before.encode(photo), after.encode(photo)
        for name, value in wanted.items():
            scale = max(float(np.linalg.norm(value)), 1e-12)
            difference = float(np.linalg.norm(found[name].astype(np.float32) - value)) / scale
            if not difference <= TOLERANCE * (10 if value.dtype == np.float16 else 1):
                raise ParityError(
                    f"attention written out computes another {name}",
                    expected=f"at most {TOLERANCE:g} of difference",
                    found=f"{difference:.2g}",
                )
        if before.write(wanted) != after.write(wanted):
            raise ParityError("attention written out writes another caption", found=f"photo {index}")


def expand_attention(model: onnx.ModelProto) -> int:
    """Writes every ``Attention`` of a graph out, in place.

    Returns:
        How many there were.

    Raises:
        ExportError: one of them has groups of heads, a causal mask of its own, or a cap.
    """
    found = [node for node in model.graph.node if node.op_type == _OPERATOR and not node.domain]
    if not found:
        return 0
    types = _element_types(model)
    constants: dict[str, TensorProto] = {}
    nodes: list[NodeProto] = []
    for place, node in enumerate(model.graph.node):
        if node.op_type == _OPERATOR and not node.domain:
            part = Nodes(f"attention_{place}/", constants)
            _expand(part, node, types)
            nodes.extend(part.nodes)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants.values())
    return len(found)


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {item.name: item.data_type for item in graph.initializer}
    for item in (*graph.input, *graph.value_info, *graph.output):
        types[item.name] = item.type.tensor_type.elem_type
    return types


def _expand(nodes: Nodes, node: NodeProto, types: dict[str, int]) -> None:
    facts = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    query, key, value, mask, past_key, past_value, *rest = [*node.input, *[""] * 7][:7]
    outputs = [*node.output, *[""] * 4][:4]
    heads = facts.get("q_num_heads")
    unknown = [name for name in _UNKNOWN if facts.get(name)]
    if unknown or any(rest) or outputs[3] or facts.get("kv_num_heads", heads) != heads:
        reason = ", ".join(unknown) or "groups of heads, or outputs that nobody asked for"
        raise ExportError("an attention cannot be written out", found=f"{node.name}: {reason}")
    parts = [query, key, value]
    if heads is not None:  # (rows, length, width), else the heads are an axis already
        parts = [_split_heads(nodes, part, int(heads)) for part in parts]
    query, key, value = parts
    if past_key:
        key = nodes.op("Concat", past_key, key, axis=2)
        value = nodes.op("Concat", past_value, value, axis=2)
    kind = types[node.input[0]]
    scores = nodes.op("MatMul", query, nodes.op("Transpose", key, perm=[0, 1, 3, 2]))
    scores = nodes.op("Mul", scores, _scale(nodes, query, facts, kind))
    if mask and types[mask] == TensorProto.BOOL:
        least = -1e4 if kind == TensorProto.FLOAT16 else -1e30
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        scores = nodes.op("Where", mask, scores, nodes.constant(np.array(least, dtype)))
    elif mask:
        scores = nodes.op("Add", scores, mask)
    seen = nodes.op("MatMul", nodes.op("Softmax", scores, axis=-1), value)
    if heads is None:
        nodes.op("Identity", seen, name=outputs[0])
    else:
        rows = nodes.op("Transpose", seen, perm=[0, 2, 1, 3])
        nodes.op("Reshape", rows, nodes.constant([0, 0, -1]), name=outputs[0])
    for present, name in ((key, outputs[1]), (value, outputs[2])):
        if name:
            nodes.op("Identity", present, name=name)


def _split_heads(nodes: Nodes, tensor: str, heads: int) -> str:
    """(rows, length, heads x width) -> (rows, heads, length, width)."""
    split = nodes.op("Reshape", tensor, nodes.constant([0, 0, heads, -1]))
    return nodes.op("Transpose", split, perm=[0, 2, 1, 3])


def _scale(nodes: Nodes, query: str, facts: dict[str, Any], kind: int) -> str:
    """As given, else 1 / sqrt(width of a head)."""
    if facts.get("scale"):
        return nodes.constant(np.array(facts["scale"], helper.tensor_dtype_to_np_dtype(kind)))
    width = nodes.cast(nodes.size(query, 3), kind)
    return nodes.op("Reciprocal", nodes.op("Sqrt", width))
