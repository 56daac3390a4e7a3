"""From a checkpoint to bundles: which one, what is refused, and that a failure leaves nothing behind."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from onnx import numpy_helper  # noqa: E402
from torch import nn  # noqa: E402

from kiloword import load_bundle  # noqa: E402
from kiloword.export import export as module  # noqa: E402
from kiloword.export.export import export_bundle, find_checkpoint  # noqa: E402
from kiloword.export.parity import _largest_difference, decoder_cases  # noqa: E402
from kiloword.export.provenance import git_commit, without_places  # noqa: E402
from kiloword.runtime.errors import ConfigError, ExportError, ParityError  # noqa: E402
from kiloword.runtime.manifest import GraphSpec  # noqa: E402
from kiloword.train.checkpoint import CheckpointError, load_checkpoint  # noqa: E402
from kiloword.train.models.concepts import ConceptsConfig  # noqa: E402
from kiloword.train.models.transformer import TransformerConfig  # noqa: E402
from kiloword.train.recipe import DataSet  # noqa: E402
from kiloword.train.recipe_file import recipe_from_table  # noqa: E402
from tests.checkpoints import FORCED, RECIPE, TinyExport, make_tiny_checkpoint  # noqa: E402

Damage = Callable[[onnx.ModelProto], None]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tiny_export: TinyExport) -> Callable[[Damage], None]:
    """Hands out the graphs that were exported already, in place of torch's slow exporter.

    Returns:
        A function that takes what shall be done to each graph before it is handed out.
    """
    damages: list[Damage] = []

    def copy_graph(_module: nn.Module, spec: GraphSpec, path: Path, **_sizes: Any) -> None:
        model = onnx.load(tiny_export.fp32 / spec.file)
        for damage in damages:
            damage(model)
        onnx.save(model, path)

    monkeypatch.setattr(module, "export_graph", copy_graph)
    return damages.append


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory, and a repository that carries no checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_REPOSITORY", tmp_path / "repository")
    return tmp_path


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def change_a_weight(name: str) -> Damage:
    """Multiplies one row of the first product's matrix by 1.5, in the graph that has this input."""

    def damage(model: onnx.ModelProto) -> None:
        if model.graph.input[0].name != name:
            return
        product = next(node for node in model.graph.node if node.op_type == "MatMul")
        stored = next(item for item in model.graph.initializer if item.name == product.input[1])
        values = numpy_helper.to_array(stored).copy()
        values[len(values) // 2] *= 1.5
        stored.CopyFrom(numpy_helper.from_array(values, stored.name))

    return damage


@pytest.mark.parametrize("name", ["pixels", "input_ids"])
def test_a_graph_that_computes_something_else_is_refused(
    quick: Callable[[Damage], None], tiny_export: TinyExport, tmp_path: Path, name: str
) -> None:
    """One changed row of one product's matrix; the bundle that was there before stays as it was."""
    output = tmp_path / "out"
    shutil.copytree(tiny_export.fp32, output / "fp32")
    before = content(output)
    quick(change_a_weight(name))
    with pytest.raises(ParityError, match="differs"):
        export_bundle(tiny_export.checkpoint, output)
    assert content(output) == before
    assert [path.name for path in output.iterdir()] == ["fp32"]


def test_a_broken_cache_is_refused(
    quick: Callable[[Damage], None], tiny_export: TinyExport, tmp_path: Path
) -> None:
    """A decoder that ignores which row it continues is right for one hypothesis alone."""
    changed = []

    def ignore_rows(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Gather" and node.input[0].startswith("past_key_values"):
                changed.append(node.name)
                node.op_type = "Identity"
                del node.input[1:]
                del node.attribute[:]

    quick(ignore_rows)
    with pytest.raises(ParityError, match=r"decoder\.onnx with .*'num_beams': 3.* differs"):
        export_bundle(tiny_export.checkpoint, tmp_path / "out")
    assert len(changed) == 4
    assert content(tmp_path) == {}


def test_a_graph_that_does_not_run_is_one_line(
    quick: Callable[[Damage], None], tiny_export: TinyExport, tmp_path: Path
) -> None:
    """onnxruntime's errors share no base class; none of them may reach the user as a traceback."""

    def wrong_width(model: onnx.ModelProto) -> None:
        for item in model.graph.initializer:
            if item.data_type == onnx.TensorProto.INT64 and len(item.dims) == 1 and item.dims[0] == 3:
                item.CopyFrom(numpy_helper.from_array(np.array([7, 7, 7]), item.name))

    quick(wrong_width)
    with pytest.raises(ParityError, match="does not run") as caught:
        export_bundle(tiny_export.checkpoint, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert content(tmp_path) == {}


def test_only_the_bundles_of_an_output_folder_are_replaced(
    quick: Callable[[Damage], None],
    tiny_export: TinyExport,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What else lies there stays, an older int8 bundle too, but that is said."""
    output = tmp_path / "out"
    shutil.copytree(tiny_export.int8, output / "int8")
    shutil.copytree(tiny_export.fp32, output / "fp32")
    (output / "fp32" / "stale.txt").write_text("of the older bundle")
    (output / "notes.txt").write_text("mine")
    with caplog.at_level(logging.WARNING, logger="kiloword"):
        assert export_bundle(tiny_export.checkpoint, output) == [output / "fp32"]
    assert sorted(path.name for path in output.iterdir()) == ["fp32", "int8", "notes.txt"]
    assert not (output / "fp32" / "stale.txt").exists()
    assert load_bundle(output / "fp32").manifest.precision == "fp32"
    assert "is of an earlier export" in caplog.text


def test_a_folder_that_is_no_bundle_is_not_replaced(tiny_export: TinyExport, tmp_path: Path) -> None:
    """It only has the name of one: `kiloword export -o ~/bundles` must not delete ~/bundles/int8."""
    (tmp_path / "int8").mkdir()
    (tmp_path / "int8" / "thesis.txt").write_text("years")
    with pytest.raises(ExportError, match="will not be replaced; expected a bundle"):
        export_bundle(tiny_export.checkpoint, tmp_path, quantize=FORCED)
    assert content(tmp_path) == {"int8/thesis.txt": b"years"}


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_output_that_cannot_be_written(tiny_export: TinyExport, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="bundles cannot be written here") as caught:
        export_bundle(tiny_export.checkpoint, tmp_path / place)
    assert caught.value.path == str(tmp_path / place)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_an_output_without_permission(tiny_export: TinyExport, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ExportError, match="Permission denied"):
            export_bundle(tiny_export.checkpoint, tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)


def test_calibration_photos_without_quantization_are_a_mistake(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    """Accepted and ignored, they would leave the user waiting for an int8 bundle."""
    with pytest.raises(ConfigError, match=r"int8 only.*--quantize"):
        export_bundle(tiny_export.checkpoint, tmp_path / "out", calibration=tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_wrong_calibration_folder_is_found_before_the_long_export(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    """It took the exporter's minute first; here torch's exporter is real and would take its time."""
    with pytest.raises(ExportError, match="no such folder"):
        export_bundle(
            tiny_export.checkpoint, tmp_path / "out", quantize=FORCED, calibration=tmp_path / "gone"
        )
    assert not (tmp_path / "out").exists()


def test_a_short_decoder_is_checked_within_its_positions() -> None:
    """Parity read 8 tokens; a decoder with 5 positions failed with an IndexError."""
    cases = decoder_cases(10, TransformerConfig(max_length=5).longest)
    assert max(case["sequence_length"] + case["past_sequence_length"] for case in cases) == 5
    assert {case["past_sequence_length"] for case in cases} > {0}


def test_find_checkpoint_takes_a_run_or_its_best(elsewhere: Path) -> None:
    """A run's folder stands for its best checkpoint."""
    best = make_tiny_checkpoint(elsewhere / "mine" / "best")
    assert find_checkpoint(elsewhere / "mine") == best
    assert find_checkpoint(best) == best


def test_find_checkpoint_without_a_name(elsewhere: Path) -> None:
    """The newest run, whatever it is called; without runs the carried one; without both an error."""
    with pytest.raises(CheckpointError, match=r"there is no checkpoint.*kiloword train"):
        find_checkpoint(None)
    carried = make_tiny_checkpoint(elsewhere / "repository" / "checkpoints" / "tiny")
    assert find_checkpoint(None) == carried
    newest = make_tiny_checkpoint(Path("runs") / "a" / "best")
    older = make_tiny_checkpoint(Path("runs") / "z" / "best")
    os.utime(older / "checkpoint.json", (1, 1))
    assert find_checkpoint(None) == newest


def forget_the_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()


def cut_the_weights(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def pickle_the_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"\x80\x04K\x01.")


def change_the_version(checkpoint: Path) -> None:
    path = checkpoint / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))


def change_the_recipe(checkpoint: Path) -> None:
    path = checkpoint / "checkpoint.json"
    facts = json.loads(path.read_text())
    facts["recipe"]["decoder"]["width"] = 32
    path.write_text(json.dumps(facts))


def spoil_the_tokenizer(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "not a checkpoint; expected .*found no checkpoint.json"),
        (forget_the_weights, "not a checkpoint.*found no model.safetensors"),
        (cut_the_weights, "damaged checkpoint"),
        (pickle_the_weights, "damaged checkpoint"),
        (change_the_version, "another version; expected format_version 1, found 99.*pip install --upgrade"),
        (change_the_recipe, "weights do not fit the recipe"),
        (spoil_the_tokenizer, "damaged checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    """Each names the directory and leaves no output."""
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint")
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message) as caught:
        export_bundle(checkpoint, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert str(caught.value.path).startswith(str(checkpoint))
    assert not (tmp_path / "out").exists()


def test_a_bundle_does_not_tell_whose_machine_it_was(quick: Callable[[Damage], None], tmp_path: Path) -> None:
    """Users give absolute paths; the bundle is published. What it learned from stays readable."""
    home = "/home/anna-secret"
    data = replace(
        RECIPE.data,
        train=(DataSet("coco/captions.json"), DataSet(f"{home}/flickr8k", images=f"{home}/photos")),
        validation=(DataSet("../../anna-secret/dev.json"), DataSet(r"C:\Users\anna-secret\dev2.json")),
        root=f"{home}/data",
        cache=f"{home}/cache",
    )
    encoder = replace(RECIPE.encoder, weights=f"{home}/vit_tiny.safetensors")
    recipe = replace(
        RECIPE,
        data=data,
        encoder=encoder,
        tokenizer=replace(RECIPE.tokenizer, checkpoint=f"{home}/runs/language"),
        start=f"{home}/runs/language",
        start_encoder="runs/eyes/best",
    )
    checkpoint = make_tiny_checkpoint(tmp_path / "checkpoint", recipe=recipe)
    (bundle,) = export_bundle(checkpoint, tmp_path / "out")
    for path in bundle.iterdir():
        assert b"anna-secret" not in path.read_bytes(), path.name
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    recorded = load_bundle(bundle).manifest.provenance["recipe"]
    assert [item["source"] for item in recorded["data"]["train"]] == ["coco/captions.json", "flickr8k"]
    assert [item["source"] for item in recorded["data"]["validation"]] == ["dev.json", "dev2.json"]
    assert recorded["encoder"]["weights"] == "vit_tiny.safetensors"
    assert recipe_from_table(recorded) == without_places(recipe)
    card = (bundle / "CARD.md").read_text(encoding="utf-8")
    assert "coco/captions.json, flickr8k" in card
    assert "from the checkpoint `language`" in card
    assert "the encoder of the checkpoint `runs/eyes/best`" in card


@pytest.mark.parametrize(
    ("sentences", "kept"), [("text/coco.txt", "text/coco.txt"), ("~anna-secret/text.txt", "text.txt")]
)
def test_sentences_are_named_without_their_place(sentences: str, kept: str) -> None:
    recipe = without_places(replace(RECIPE, concepts=ConceptsConfig(sentences=sentences)))
    assert recipe.concepts == ConceptsConfig(sentences=kept)


def test_provenance_names_code_weights_and_versions(tiny_export: TinyExport) -> None:
    """Enough to find again what a bundle was made from."""
    facts = load_bundle(tiny_export.fp32).manifest.provenance
    assert facts["checkpoint_sha256"] == load_checkpoint(tiny_export.checkpoint).digest
    assert facts["versions"]["torch"]
    assert facts["licence"] == RECIPE.data.licence
    assert facts["git_commit"] is None or len(facts["git_commit"]) == 40


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    """None without a checkout, none before the first commit, then what git says."""
    assert git_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    assert git_commit(tmp_path) is None
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "first"], check=True)
    said = subprocess.run([*git, "log", "--format=%H"], check=True, capture_output=True, text=True)
    assert git_commit(tmp_path) == said.stdout.strip()


def test_a_card_claims_only_what_is_known(tiny_export: TinyExport) -> None:
    """This model started from random weights, and nobody validated it."""
    card = (tiny_export.fp32 / "CARD.md").read_text(encoding="utf-8")
    assert "timm" not in card
    assert "not measured" in card
    assert "Random weights: no data." in card


@pytest.mark.parametrize(
    ("largest", "difference", "refused"),
    [(1.0, 1e-4, False), (1.0, 5e-4, True), (100.0, 2e-3, False), (100.0, 5e-3, True), (1e4, 0.15, False)],
)
def test_small_values_carry_the_rounding_of_large_ones(
    largest: float, difference: float, refused: bool
) -> None:
    """Beside a value of 100 a small one may be 2e-3 off, and no more; the large one by its own share."""
    want = np.array([largest, 0.1], dtype=np.float32)
    have = want + np.array([0, difference], dtype=np.float32)
    if refused:
        with pytest.raises(ParityError, match="logits differs"):
            _largest_difference(["logits"], [want], [have], "a case")
    else:
        assert _largest_difference(["logits"], [want], [have], "a case") == pytest.approx(
            difference, rel=0.01
        )
