"""What the exported files look like: names, axes, types, and nothing about the machine that exported them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from kiloword.export.graphs import decoder_spec, encoder_spec  # noqa: E402
from kiloword.export.onnx_export import check_declared, export_graph  # noqa: E402
from kiloword.runtime.bundle import load_bundle  # noqa: E402
from kiloword.runtime.errors import ExportError  # noqa: E402
from kiloword.runtime.manifest import GraphSpec, TensorSpec  # noqa: E402
from tests.checkpoints import TinyExport  # noqa: E402

HEADS, HEAD_WIDTH, IMAGE_TOKENS = 4, 16, 17
VOCAB_SIZE = 67

Axes = tuple[object, ...]


def axes_of(values: list[onnx.ValueInfoProto]) -> dict[str, Axes]:
    """Names and axes as they stand in the file."""
    return {
        value.name: tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in values
    }


def test_the_encoder_has_the_names_and_axes_of_the_design(tiny_export: TinyExport) -> None:
    """The names are those of docs/BUNDLE.md, written out: scripts and other runtimes rely on them."""
    graph = onnx.load(tiny_export.fp32 / "encoder.onnx").graph
    assert axes_of(graph.input) == {"pixels": ("batch_size", 32, 32, 3)}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert axes_of(graph.output) == {
        f"cross_key_values.{layer}.{part}": ("batch_size", HEADS, IMAGE_TOKENS, HEAD_WIDTH)
        for layer in (0, 1)
        for part in ("key", "value")
    }


def test_the_decoder_has_the_names_and_axes_of_the_design(tiny_export: TinyExport) -> None:
    """As for the encoder. An output's free axes may be expressions, so only the fixed ones are compared."""
    graph = onnx.load(tiny_export.fp32 / "decoder.onnx").graph
    pairs = [f"{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    context: Axes = ("batch_size", HEADS, IMAGE_TOKENS, HEAD_WIDTH)
    past: Axes = ("past_rows", HEADS, "past_sequence_length", HEAD_WIDTH)
    assert axes_of(graph.input) == {
        "input_ids": ("batch_size", "num_beams", "sequence_length"),
        "beam_rows": ("batch_size", "num_beams"),
        **{f"cross_key_values.{pair}": context for pair in pairs},
        **{f"past_key_values.{pair}": past for pair in pairs},
    }
    outputs = axes_of(graph.output)
    queries = [f"cross_query.{layer}" for layer in (0, 1)]
    assert list(outputs) == ["logits", *(f"present.{pair}" for pair in pairs), *queries, "sequence_logits"]
    assert outputs["logits"][2] == outputs["sequence_logits"][3] == VOCAB_SIZE
    for pair in pairs:
        rows, heads, total, width = outputs[f"present.{pair}"]
        assert (heads, width) == (HEADS, HEAD_WIDTH)
        assert isinstance(rows, str)
        assert isinstance(total, str)


def test_the_manifest_declares_roles_and_what_feeds_what(tiny_export: TinyExport) -> None:
    """The roles are those of the design: context once per image, cache handed from step to step."""
    for directory in (tiny_export.fp32, tiny_export.int8):
        manifest = load_bundle(directory).manifest
        roles = {tensor.name.split(".")[0]: tensor.role for tensor in manifest.decoder.inputs}
        assert roles == {
            "input_ids": "token_ids",
            "beam_rows": "beam_rows",
            "cross_key_values": "context",
            "past_key_values": "cache",
        }
        assert all(tensor.feeds == tensor.name for tensor in manifest.encoder.outputs)
        feeds = {tensor.name: tensor.feeds for tensor in manifest.decoder.outputs}
        assert feeds["logits"] is None
        assert feeds["present.1.value"] == "past_key_values.1.value"
        assert manifest.tokens.max_sequence_length == 16
        assert manifest.architecture["encoder"] == "vit"


def test_attention_is_one_operator_and_the_output_matrix_is_folded(tiny_export: TinyExport) -> None:
    """One `Attention` per block's attention; a Transpose of a constant hid the LM head from the quantizer."""
    for file, attentions in (("encoder.onnx", 2), ("decoder.onnx", 4)):
        graph = onnx.load(tiny_export.fp32 / file).graph
        constants = {item.name for item in graph.initializer}
        assert sum(node.op_type == "Attention" for node in graph.node) == attentions
        assert not [
            node.name for node in graph.node if node.op_type == "Transpose" and node.input[0] in constants
        ]
        assert not any(node.op_type == "If" for node in graph.node)


def test_the_files_tell_nothing_about_the_exporting_machine(tiny_export: TinyExport) -> None:
    """torch's exporter writes the stack of each node, with the paths of the source, into the graph."""
    here = str(Path(__file__).resolve().parents[3]).encode()
    for directory in (tiny_export.fp32, tiny_export.int8):
        for path in directory.iterdir():
            content = path.read_bytes()
            for trace in (here, str(tiny_export.checkpoint.parent).encode(), b"stack_trace", b".py"):
                assert trace not in content, f"{trace!r} in {path.name}"


def test_the_exporter_is_silent(tiny_export: TinyExport) -> None:
    """Its loggers report operators and rewritten patterns; warnings are errors in all tests anyway."""
    assert [record.getMessage() for record in tiny_export.chatter] == []


def test_a_model_that_torch_cannot_export_is_one_line(tmp_path: Path) -> None:
    """What failed is at the end of the exporter's chain of pages of advice."""

    class Stubborn(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            raise ValueError("no thoroughfare\nand more")

    pixels = TensorSpec("pixels", "pixels", "uint8", ("batch_size", 8, 8, 3))
    spec = GraphSpec("encoder.onnx", (pixels,), ())
    with pytest.raises(ExportError, match="torch cannot export encoder") as caught:
        export_graph(Stubborn().eval(), spec, tmp_path / "encoder.onnx", vocab_size=10, positional=1)
    assert "no thoroughfare" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def rename_output(graph: onnx.GraphProto) -> None:
    old, graph.output[0].name = graph.output[0].name, "scores"
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == old:
                node.output[index] = "scores"


def fix_an_axis(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def rename_an_axis(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[1].dim_param = "beams"


def fix_an_axis_of_an_output(graph: onnx.GraphProto) -> None:
    graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2


def narrow_an_output(graph: onnx.GraphProto) -> None:
    del graph.output[0].type.tensor_type.shape.dim[2]


def change_a_type(graph: onnx.GraphProto) -> None:
    graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT32


def cut_a_wire(graph: onnx.GraphProto) -> None:
    graph.node[-1].input[0] = "nowhere"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rename_output, r"outputs of decoder.onnx; expected logits, .*found scores, "),
        (fix_an_axis, "axes of input input_ids of decoder.onnx"),
        (rename_an_axis, r"axes of input input_ids.*found .*beams"),
        (fix_an_axis_of_an_output, "axes of output logits"),
        (narrow_an_output, "axes of output logits"),
        (change_a_type, "element type of input beam_rows of decoder.onnx; expected int64, found int32"),
        (cut_a_wire, r"decoder\.onnx is no valid ONNX"),
    ],
)
def test_a_graph_that_is_not_what_was_declared_is_refused(
    tiny_export: TinyExport, damage: Callable[[onnx.GraphProto], None], message: str
) -> None:
    """Each damage alone to a graph that is accepted without it."""
    model = onnx.load(tiny_export.fp32 / "decoder.onnx")
    spec = decoder_spec(tiny_export.model)
    check_declared(model, spec)
    damaged = copy.deepcopy(model)
    damage(damaged.graph)
    with pytest.raises(ExportError, match=message):
        check_declared(damaged, spec)


def test_the_encoder_s_declaration_fits_its_graph(tiny_export: TinyExport) -> None:
    """The quantized encoder keeps the fp32 one's inputs and outputs, so one declaration serves both."""
    for directory in (tiny_export.fp32, tiny_export.int8):
        graph = onnx.load(directory / "encoder.onnx").graph
        spec = encoder_spec(tiny_export.model)
        assert [item.name for item in graph.input] == [item.name for item in spec.inputs]
        assert [item.name for item in graph.output] == [item.name for item in spec.outputs]
