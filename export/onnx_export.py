"""torch modules to ONNX files, with the names and axes that the manifest declares."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn

from kiloword.export.graph_files import save_graph
from kiloword.export.graphs import example_inputs
from kiloword.export.simplify import part_products
from kiloword.runtime.errors import ExportError
from kiloword.runtime.manifest import GraphSpec, TensorSpec

OPSET = 23
"""The first with attention as one operator, key/value cache included; onnxruntime computes it since 1.23."""

# Every axis gets another size, none of them 0 or 1, so that the exporter takes none for a constant or for
# another one.
_EXAMPLE_SIZES = {
    "batch_size": 2,
    "num_beams": 3,
    "sequence_length": 4,
    "past_rows": 5,
    "past_sequence_length": 6,
}
_TERMINAL_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def export_graph(module: nn.Module, spec: GraphSpec, path: Path, *, vocab_size: int, positional: int) -> None:
    """Exports a module and checks the names, types and axes of what was written.

    Args:
        module: in evaluation mode; takes the spec's inputs in order.
        spec: the graph's declaration.
        path: the ONNX file to write.
        vocab_size: bound of the example token ids.
        positional: number of named arguments of ``forward``; the inputs after these are its ``*arguments``.

    Raises:
        ExportError: the exporter failed, or the graph is not what was declared.
    """
    sizes = {**_EXAMPLE_SIZES, "vocab_size": vocab_size}
    try:
        with _quiet():
            program = _run_exporter(module, spec, tuple(example_inputs(spec, sizes)), positional)
            model = program.model_proto
    except Exception as error:  # the exporter raises many types; the message is what helps
        raise ExportError(f"torch cannot export {spec.file}", found=_first_cause(error)) from error
    _drop_notes(model.graph)
    part_products(model)
    check_declared(model, spec)
    save_graph(model, path)


def _run_exporter(
    module: nn.Module, spec: GraphSpec, inputs: tuple[torch.Tensor, ...], positional: int
) -> torch.onnx.ONNXProgram:
    axes = [{i: axis for i, axis in enumerate(item.axes) if isinstance(axis, str)} for item in spec.inputs]
    names: dict[str, torch.export.Dim] = {}
    dims = [{i: names.setdefault(axis, torch.export.Dim(axis)) for i, axis in item.items()} for item in axes]
    shapes = tuple(dims[:positional]) + ((tuple(dims[positional:]),) if len(dims) > positional else ())
    with torch.no_grad():
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=[item.name for item in spec.inputs],
            output_names=[item.name for item in spec.outputs],
            dynamic_shapes=shapes,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("the exporter returned nothing")
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what the exporter says about itself: nobody who exports a captioner can act on it."""
    # It reports each operator of torchvision that it will not need, its rewriter each pattern that it tries.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # An axis name that occurs twice, as ours do on purpose, and deprecated calls inside the exporter.
        message = ".*The axis name: .* will not be used"
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_cause(error: BaseException) -> str:
    """What went wrong first, in one line: the exporter wraps it in pages of advice about itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = _TERMINAL_COLOURS.sub("", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _drop_notes(graph: onnx.GraphProto) -> None:
    """Removes the exporter's notes: they hold the paths and lines of the source on the exporting machine."""
    for item in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def check_declared(model: onnx.ModelProto, spec: GraphSpec) -> None:
    """Checks that names, element types, fixed sizes and named axes of a graph are those of the manifest.

    Raises:
        ExportError: they are not, or the graph is no valid ONNX.
    """
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{spec.file} is no valid ONNX", found=_first_cause(error)) from error
    for side, declared, found in (
        ("input", spec.inputs, model.graph.input),
        ("output", spec.outputs, model.graph.output),
    ):
        names, wanted = [item.name for item in found], [item.name for item in declared]
        if names != wanted:
            raise ExportError(f"{side}s of {spec.file}", expected=", ".join(wanted), found=", ".join(names))
        for item, value in zip(declared, found, strict=True):
            _check_tensor(item, value, f"{side} {item.name} of {spec.file}", exact=side == "input")


def _check_tensor(declared: TensorSpec, found: onnx.ValueInfoProto, what: str, *, exact: bool) -> None:
    wanted = helper.np_dtype_to_tensor_dtype(np.dtype(declared.dtype))
    kind = found.type.tensor_type
    if kind.elem_type != wanted:
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        raise ExportError(f"element type of {what}", expected=declared.dtype, found=name)
    shape = tuple(_axis(dimension) for dimension in kind.shape.dim)
    if not _matches(declared.axes, shape, exact=exact):
        raise ExportError(f"axes of {what}", expected=str(declared.axes), found=str(shape))


def _axis(dimension: onnx.TensorShapeProto.Dimension) -> int | str:
    return str(dimension.dim_param) if dimension.dim_param else int(dimension.dim_value)


def _matches(declared: tuple[int | str, ...], found: tuple[int | str, ...], *, exact: bool) -> bool:
    """Fixed sizes must agree. Named axes too, but an output's may be an expression of the inputs' names."""
    if len(declared) != len(found):
        return False
    return all(
        want == have if exact or isinstance(want, int) else isinstance(have, str)
        for want, have in zip(declared, found, strict=True)
    )
