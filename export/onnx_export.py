"""torch modules to ONNX files, with the names and axes that the manifest declares."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

from kiloword.export.graphs import example_inputs
from kiloword.runtime.errors import ExportError
from kiloword.runtime.manifest import GraphSpec

logger = logging.getLogger(__name__)

OPSET = 23
"""The first with attention as one operator, key/value cache included; onnxruntime computes it since 1.23."""

# Every axis gets another size, none of them 0 or 1, so that the exporter takes none for a constant or for another.
_EXAMPLE_SIZES = {"batch_size": 2, "num_beams": 3, "sequence_length": 4, "past_rows": 5, "past_sequence_length": 6}


def export_graph(module: nn.Module, spec: GraphSpec, path: Path, *, vocab_size: int, positional: int) -> None:
    """Exports a module and checks the names and the axes of what was written.

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
        program = _run_exporter(module, spec, tuple(example_inputs(spec, sizes)), positional)
    except Exception as error:  # the exporter raises many types; the message is what helps
        raise ExportError(f"torch cannot export {spec.file}: {error}", path=path) from error
    program.save(path)
    _check_declared(onnx.load(path), spec, path)


def _run_exporter(
    module: nn.Module, spec: GraphSpec, inputs: tuple[torch.Tensor, ...], positional: int
) -> torch.onnx.ONNXProgram:
    axes = [{i: axis for i, axis in enumerate(item.axes) if isinstance(axis, str)} for item in spec.inputs]
    names: dict[str, torch.export.Dim] = {}
    dims = [{i: names.setdefault(axis, torch.export.Dim(axis)) for i, axis in item.items()} for item in axes]
    shapes = tuple(dims[:positional]) + ((tuple(dims[positional:]),) if len(dims) > positional else ())
    with warnings.catch_warnings(), torch.no_grad():
        # Of torch's own making: an axis name that occurs twice, a deprecated call inside the exporter.
        warnings.filterwarnings("ignore", message=".*The axis name: .* will not be used", category=UserWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        exporter_log = logging.getLogger("torch.onnx")
        level = exporter_log.level
        exporter_log.setLevel(logging.ERROR)  # it reports each operator of torchvision that it will not need
        try:
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
        finally:
            exporter_log.setLevel(level)
    if program is None:
        raise ExportError(f"torch gave no graph for {spec.file}")
    return program


def _check_declared(model: onnx.ModelProto, spec: GraphSpec, path: Path) -> None:
    """Names, element types, fixed sizes and named axes are those of the manifest."""
    onnx.checker.check_model(model)
    for side, declared, found in (
        ("input", spec.inputs, model.graph.input),
        ("output", spec.outputs, model.graph.output),
    ):
        names = [item.name for item in found]
        if names != [item.name for item in declared]:
            raise ExportError(
                f"{side}s of the graph", path=path, expected=str([item.name for item in declared]), found=str(names)
            )
        for item, value in zip(declared, found, strict=True):
            shape = tuple(_axis(dimension) for dimension in value.type.tensor_type.shape.dim)
            if not _matches(item.axes, shape, exact=side == "input"):
                raise ExportError(
                    f"axes of {side} {item.name}", path=path, expected=str(item.axes), found=str(shape)
                )


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
