"""ONNX files of one operator, written without the onnx package, to measure what a machine can do.

Only what those files need of the format is here: a protocol buffer is a row of fields, each a number and a
value that is an integer or bytes with their length.

Source: onnx.proto3 of the ONNX project, and the encoding of protocol buffers (protobuf.dev).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IR_VERSION = 8
_OPSET = 17
_ELEMENT_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}


def one_operator(
    operator: str,
    inputs: Mapping[str, tuple[str, Sequence[int]]],
    constants: Mapping[str, NDArray[Any]],
    output: tuple[str, Sequence[int]],
) -> bytes:
    """An ONNX file whose graph is one node.

    Args:
        operator: Its type, such as ``MatMul``.
        inputs: Element type and shape of what the caller gives, by name; the node's first inputs.
        constants: What is in the file; the node's further inputs.
        output: Element type and shape of the only output, ``result``.

    >>> two = ("float32", (2,))
    >>> isinstance(one_operator("Add", {"a": two}, {"b": np.ones(2, np.float32)}, two), bytes)
    True
    """
    names = [*inputs, *constants]
    node = b"".join(_text(1, name) for name in names) + _text(2, "result") + _text(4, operator)
    graph = (
        _message(1, node)
        + _text(2, operator)
        + b"".join(_message(5, _tensor(name, values)) for name, values in constants.items())
        + b"".join(_message(11, _value(name, *facts)) for name, facts in inputs.items())
        + _message(12, _value("result", *output))
    )
    opset = _text(1, "") + _integer(2, _OPSET)
    return _integer(1, _IR_VERSION) + _message(7, graph) + _message(8, opset)


def _tensor(name: str, values: NDArray[Any]) -> bytes:
    dims = b"".join(_integer(1, size) for size in values.shape)
    data = np.ascontiguousarray(values).tobytes()
    return dims + _integer(2, _ELEMENT_TYPES[values.dtype.name]) + _text(8, name) + _message(9, data)


def _value(name: str, dtype: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_message(1, _integer(1, size)) for size in shape)
    tensor = _integer(1, _ELEMENT_TYPES[dtype]) + _message(2, dims)
    return _text(1, name) + _message(2, _message(1, tensor))


def _integer(field: int, value: int) -> bytes:
    return _variable(field << 3) + _variable(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, value: bytes) -> bytes:
    return _variable(field << 3 | 2) + _variable(len(value)) + value


def _variable(value: int) -> bytes:
    """Seven bits in each byte, the lowest first; the highest bit says that more follow."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
