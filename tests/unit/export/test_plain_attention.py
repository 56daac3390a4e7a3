"""Attention written out: no operator is left, the captions are the same, and what is not known is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

import onnxruntime  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

from kiloword import Captioner, load_bundle  # noqa: E402
from kiloword.export import plain_attention as module  # noqa: E402
from kiloword.export.export import export_bundle  # noqa: E402
from kiloword.export.plain_attention import expand_attention, write_attention_out  # noqa: E402
from kiloword.runtime.errors import ExportError, ParityError  # noqa: E402
from tests.checkpoints import TinyExport, random_pixels  # noqa: E402


def attentions(directory: Path) -> int:
    graphs = [onnx.load(path).graph for path in directory.glob("*.onnx")]
    return sum(node.op_type == "Attention" for graph in graphs for node in graph.node)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_captions_without_the_operator(
    tiny_export: TinyExport, tmp_path: Path, precision: str
) -> None:
    """Encoder with heads to split, decoder with a past and a mask, prompt and steps, greedy and beams."""
    source = getattr(tiny_export, precision)
    assert attentions(source) > 0
    (made,) = export_bundle(source, tmp_path, plain_attention=True)
    assert made.name == precision
    assert attentions(made) == 0
    assert load_bundle(made).manifest.decoder == load_bundle(source).manifest.decoder
    pixels = random_pixels(6, seed=5)
    for beams in (1, 3):
        found = []
        for directory in (source, made):
            with Captioner.load(directory, provider="cpu", threads=1) as captioner:
                found.append([one.token_ids for one in captioner.caption_pixels(pixels, num_beams=beams)])
        assert found[0] == found[1]


def make_attention(*, heads: int | None, mask: int | None, **attributes: float) -> onnx.ModelProto:
    """One operator: heads in the width or as an axis, no mask, a boolean one or one to add."""
    shape = [2, 5, 12] if heads else [2, 3, 5, 4]
    facts = {} if heads is None else {"q_num_heads": heads, "kv_num_heads": heads}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "qkv"]
    if mask is not None:
        inputs.append(helper.make_tensor_value_info("m", mask, [5, 5]))
    names = [item.name for item in inputs]
    node = helper.make_node("Attention", names, ["y"], **facts, **attributes)
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    graph = helper.make_graph([node], "one", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


@pytest.mark.parametrize("mask", [None, TensorProto.BOOL, TensorProto.FLOAT])
@pytest.mark.parametrize(("heads", "attributes"), [(3, {}), (None, {}), (3, {"scale": 0.3})])
def test_against_the_operator_itself(
    heads: int | None, attributes: dict[str, float], mask: int | None
) -> None:
    """onnxruntime computes both."""
    model = make_attention(heads=heads, mask=mask, **attributes)
    random = np.random.default_rng(0)
    shape = (2, 5, 12) if heads else (2, 3, 5, 4)
    feeds = {name: random.standard_normal(shape).astype(np.float32) for name in "qkv"}
    if mask == TensorProto.BOOL:
        feeds["m"] = np.tril(np.ones((5, 5), bool))
    elif mask is not None:
        feeds["m"] = random.standard_normal((5, 5)).astype(np.float32)
    results = []
    for _ in range(2):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        results.append(session.run(None, feeds)[0])
        expand_attention(model)
    assert all(node.op_type != "Attention" for node in model.graph.node)
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-5)


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(ExportError, match="is_causal"):
        expand_attention(make_attention(heads=3, mask=None, is_causal=1))


def test_another_result_is_refused(
    tiny_export: TinyExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores that are not scaled."""
    copy = Path(shutil.copytree(tiny_export.fp32, tmp_path / "fp32"))
    monkeypatch.setattr(module, "_scale", lambda nodes, *_: nodes.constant(np.array(1.0, np.float32)))
    with pytest.raises(ParityError, match="attention written out"):
        write_attention_out(copy, random_pixels(2))
