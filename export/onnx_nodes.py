"""Writing ONNX graphs node by node, and putting one graph into another."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

_Named = TypeVar("_Named", TensorProto, ValueInfoProto)

MOST_BYTES = 2**31 - 2**24
"""A protobuf, which an ONNX file is, has at most 2 GiB; the graph takes some of them."""


class Nodes:
    """A list of nodes in the making; every method returns the names of tensors.

    Constants are shared by all lists that are made from one another with `inner`: a loop's body sees the
    weights of the graph around it.
    """

    def __init__(self, prefix: str, constants: dict[str, TensorProto] | None = None) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {} if constants is None else constants
        self._prefix = prefix

    def inner(self, prefix: str) -> Nodes:
        """The nodes of a graph inside this one."""
        return Nodes(prefix, self.constants)

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Adds a node with one output, and returns the output's name."""
        return self.ops(kind, *inputs, outputs=1, names=None if name is None else [name], **attributes)[0]

    def ops(
        self, kind: str, *inputs: str, outputs: int, names: Sequence[str] | None = None, **attributes: Any
    ) -> list[str]:
        """Adds a node with several outputs."""
        stem = f"{self._prefix}{kind}_{len(self.nodes)}"
        made = [f"{stem}_{index}" for index in range(outputs)] if names is None else list(names)
        self.nodes.append(helper.make_node(kind, list(inputs), made, name=stem, **attributes))
        return made

    def constant(self, values: NDArray[Any] | Sequence[int] | int) -> str:
        """Whole numbers (int64), or an array as it is; the same values are stored once."""
        array = values if isinstance(values, np.ndarray) else np.array(values, np.int64)
        name = f"constant_{array.dtype}_{'x'.join(map(str, array.shape))}_{len(self.constants)}"
        tensor = numpy_helper.from_array(array, name)
        for known in self.constants.values():
            if (known.data_type, known.dims, known.raw_data) == (
                tensor.data_type,
                tensor.dims,
                tensor.raw_data,
            ):
                return known.name
        self.constants[name] = tensor
        return name

    def size(self, tensor: str, axis: int) -> str:
        """The size of an axis, as a tensor (1,)."""
        return self.op("Shape", tensor, start=axis, end=axis + 1)

    def reshape(self, tensor: str, *sizes: int | str) -> str:
        """Reshape; a text names a tensor (1,) that holds the size, 0 keeps an axis and -1 is the rest."""
        parts = [size if isinstance(size, str) else self.constant([size]) for size in sizes]
        return self.op("Reshape", tensor, self.op("Concat", *parts, axis=0))

    def cast(self, tensor: str, kind: int) -> str:
        """Another element type."""
        return self.op("Cast", tensor, to=kind)

    def slice(self, tensor: str, start: int, end: int, axis: int) -> str:
        """A part along one axis."""
        places = (self.constant([place]) for place in (start, end, axis))
        return self.op("Slice", tensor, *places)

    def inline(self, graph: GraphProto, inputs: Mapping[str, str], prefix: str) -> dict[str, str]:
        """Puts the nodes of a graph here.

        Args:
            graph: what to put here, without its weights.
            inputs: for each input of the graph, and each weight, the tensor that takes its place.
            prefix: for the names of all other tensors.

        Returns:
            The name here of each output of the graph.
        """
        names = _Renamed(inputs, prefix)
        self.nodes.extend(_renamed_node(node, names) for node in graph.node)
        return {item.name: names[item.name] for item in graph.output}


class _Renamed(dict[str, str]):
    """Names of tensors in another graph: those given, and the others with a prefix."""

    def __init__(self, given: Mapping[str, str], prefix: str) -> None:
        super().__init__(given)
        self._prefix = prefix

    def __missing__(self, name: str) -> str:
        return name and self._prefix + name  # an empty name is an optional input that is left out


def _renamed_node(node: NodeProto, names: _Renamed) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = names[node.name] if node.name else ""
    copy.input[:] = [names[name] for name in node.input]
    copy.output[:] = [names[name] for name in node.output]
    for graph in _graphs_of(copy):
        _rename_inside(graph, names)
    return copy


def _graphs_of(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _rename_inside(graph: GraphProto, names: _Renamed) -> None:
    """A branch or body sees the tensors around it, so all names change alike."""
    for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        item.name = names[item.name]
    renamed = [_renamed_node(node, names) for node in graph.node]
    del graph.node[:]
    graph.node.extend(renamed)


def prefixed_weights(graph: GraphProto, prefix: str) -> dict[str, TensorProto]:
    """The weights of a graph under names of their own, by their old names."""
    return {item.name: _prefixed(item, prefix) for item in graph.initializer}


def prefixed_shapes(graph: GraphProto, prefix: str) -> list[ValueInfoProto]:
    """The axes of a graph's tensors, under the names that they have where it was put."""
    return [_prefixed(item, prefix) for item in (*graph.value_info, *graph.output)]


def _prefixed(item: _Named, prefix: str) -> _Named:
    copy = type(item)()
    copy.CopyFrom(item)
    copy.name = prefix + item.name
    return copy


def joined_opsets(models: Collection[onnx.ModelProto]) -> list[onnx.OperatorSetIdProto]:
    """The operator sets of several models; where they differ, the later one.

    Later versions of the operators that torch's exporter and our quantizer write mean the same.
    """
    versions: dict[str, int] = {}
    for model in models:
        for item in model.opset_import:
            versions[item.domain] = max(versions.get(item.domain, 0), item.version)
    return [helper.make_opsetid(domain, version) for domain, version in versions.items()]
