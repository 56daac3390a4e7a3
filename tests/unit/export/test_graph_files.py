"""Large graphs and the files with their weights: made, copied, checked, and read by everything that loads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from kiloword import BundleError, Captioner, load_bundle  # noqa: E402
from kiloword.export import graph_files  # noqa: E402
from kiloword.export.export import export_bundle  # noqa: E402
from kiloword.export.graph_files import save_graph  # noqa: E402
from kiloword.export.half import half_bundle  # noqa: E402
from kiloword.export.photos import calibration_photos  # noqa: E402
from kiloword.export.quantized import QualityLimits, QuantizeOptions, quantize_bundle  # noqa: E402
from kiloword.export.single_graph import SearchOverrides, write_single_graph  # noqa: E402
from kiloword.runtime.bundle import write_manifest  # noqa: E402
from tests.checkpoints import TinyExport, random_pixels  # noqa: E402

ANY_SPEED = QualityLimits(min_times_as_fast=0, min_equal_words=0)
WEIGHTS = {"encoder.onnx.data", "decoder.onnx.data"}


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_files, "LARGE_BYTES", 0)


@pytest.fixture(scope="module")
def apart(tiny_export: TinyExport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny fp32 bundle with its weights in files of their own."""
    directory = tmp_path_factory.mktemp("apart") / "fp32"
    shutil.copytree(tiny_export.fp32, directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_files, "LARGE_BYTES", 0)
        for path in directory.glob("*.onnx"):
            save_graph(onnx.load(path), path)
    write_manifest(directory, load_bundle(tiny_export.fp32).manifest)
    return directory


def captions(directory: Path) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    with Captioner.load(directory, provider="cpu", threads=1) as captioner:
        found = captioner.caption_pixels(random_pixels(6, seed=4), num_beams=2)
    return [(one.token_ids, one.token_logprobs) for one in found]


def test_the_same_captions_to_the_bit(tiny_export: TinyExport, apart: Path, tmp_path: Path) -> None:
    """Also where the bundle was copied to another place."""
    assert load_bundle(apart).manifest.files.keys() > WEIGHTS
    assert (apart / "decoder.onnx").stat().st_size < (apart / "decoder.onnx.data").stat().st_size
    copy = shutil.copytree(apart, tmp_path / "a copy, elsewhere")
    assert captions(tiny_export.fp32) == captions(apart) == captions(copy)
    bundle = load_bundle(copy)
    sizes = [(copy / f"decoder.onnx{ending}").stat().st_size for ending in ("", ".data")]
    assert bundle.graph_bytes(bundle.manifest.decoder) == sum(sizes)


def test_int8_of_a_large_bundle(tiny_export: TinyExport, apart: Path, tmp_path: Path) -> None:
    """Two recipes share a graph; what was made of one file and of two is the same."""
    options = QuantizeOptions("static+weight-only", limits=ANY_SPEED, force=True)
    made = []
    for source, large in ((apart, True), (tiny_export.fp32, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graph_files, "LARGE_BYTES", 0 if large else 1 << 30)
            photos = calibration_photos(None, None, load_bundle(source).manifest.image)
            made.append(quantize_bundle(source, tmp_path / str(large), photos, options).directory)
    assert [path.name for path in sorted(made[0].glob("*.data"))] == sorted(WEIGHTS)
    assert not list(made[1].glob("*.data"))
    assert captions(made[0]) == captions(made[1])


@pytest.mark.parametrize("kind", ["fp16", "plain attention", "single graph"])
def test_what_else_is_made_of_a_large_bundle(apart: Path, tmp_path: Path, kind: str) -> None:
    """Each reads the weights, and compares what it made with the bundle before it is done."""
    target = tmp_path / "made"
    makers: dict[str, Callable[[], object]] = {
        "fp16": lambda: half_bundle(apart, target, random_pixels(2)),
        "plain attention": lambda: export_bundle(apart, tmp_path / "made", plain_attention=True),
        "single graph": lambda: write_single_graph(
            load_bundle(apart), target, random_pixels(2), SearchOverrides(num_beams=2)
        ),
    }
    makers[kind]()
    directory = target / "fp32" if kind == "plain attention" else target
    if kind != "single graph":
        assert load_bundle(directory).manifest.files.keys() > WEIGHTS
        assert [ids for ids, _ in captions(directory)] == [ids for ids, _ in captions(apart)]
    else:
        assert not list(target.glob("*.data"))


@pytest.mark.parametrize("fault", ["changed", "missing", "not listed"])
def test_weights_are_vouched_for(tiny_export: TinyExport, apart: Path, tmp_path: Path, fault: str) -> None:
    """What onnxruntime would read must be what the manifest says."""
    source = tiny_export.fp32 if fault == "not listed" else apart
    copy = shutil.copytree(source, tmp_path / "copy")
    weights = copy / "encoder.onnx.data"
    if fault == "changed":
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    elif fault == "missing":
        weights.unlink()
    else:
        weights.write_bytes(b"anything")
    with pytest.raises(BundleError) as caught:
        Captioner.load(copy)
    said = {"changed": "was changed or damaged", "missing": "is missing", "not listed": "is not part of"}
    assert said[fault] in str(caught.value)
    assert str(weights) in str(caught.value)


def test_a_graph_that_became_small_leaves_no_weights(apart: Path, tmp_path: Path) -> None:
    """Written once more, as one file."""
    path = Path(shutil.copytree(apart, tmp_path / "copy")) / "encoder.onnx"
    model = onnx.load(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_files, "LARGE_BYTES", 1 << 30)
        save_graph(model, path)
    assert not path.with_name("encoder.onnx.data").exists()
    assert onnx.load(path, load_external_data=False) == onnx.load(apart / "encoder.onnx")
