"""fp16: half the bytes, halves between the graphs, the same captions; and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from onnx import numpy_helper  # noqa: E402

from kiloword import Captioner, load_bundle  # noqa: E402
from kiloword.export import half as module  # noqa: E402
from kiloword.export.export import export_bundle  # noqa: E402
from kiloword.export.half import half_bundle  # noqa: E402
from kiloword.export.providers import check_on_providers  # noqa: E402
from kiloword.export.single_graph import FACTS_FILE, SearchOverrides  # noqa: E402
from kiloword.runtime.errors import ConfigError, ExportError, ParityError, ProviderError  # noqa: E402
from tests.checkpoints import TinyExport, random_pixels  # noqa: E402


@pytest.fixture(scope="module")
def fp16(tiny_export: TinyExport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("half") / "fp16"
    return half_bundle(tiny_export.fp32, target, random_pixels(8)).directory


def test_half_the_bytes_and_the_same_captions(tiny_export: TinyExport, fp16: Path) -> None:
    """Compared on other pictures than it was checked on when it was made; with beams, too."""
    small, exact = load_bundle(fp16), load_bundle(tiny_export.fp32)
    assert small.manifest.precision == "fp16"
    for file in ("encoder.onnx", "decoder.onnx"):
        weights = [onnx.load(bundle.directory / file).graph.initializer for bundle in (exact, small)]
        sizes = [sum(len(item.raw_data) for item in items if item.data_type in (1, 10)) for items in weights]
        assert 0.45 < sizes[1] / sizes[0] < 0.55
    kinds = {tensor.role: tensor.dtype for tensor in small.manifest.decoder.inputs}
    assert (kinds["context"], kinds["cache"]) == ("float16", "float16")
    assert small.manifest.decoder.outputs_of("logits")[0].dtype == "float32"
    assert "(fp16)" in (fp16 / "CARD.md").read_text(encoding="utf-8").splitlines()[0]
    pixels = random_pixels(12, seed=3)
    for beams in (1, 3):
        found = []
        for directory in (tiny_export.fp32, fp16):
            with Captioner.load(directory, provider="cpu", threads=1) as captioner:
                found.append([one.token_ids for one in captioner.caption_pixels(pixels, num_beams=beams)])
        assert sum(a == b for a, b in zip(*found, strict=True)) >= 11


def test_it_can_say_where_it_looked(fp16: Path) -> None:
    """Queries stay float32 and are compared with keys that are halves."""
    with Captioner.load(fp16, provider="cpu", threads=1) as captioner:
        (caption,) = captioner.caption_pixels(random_pixels(1), attention=True)
    assert caption.attention is not None
    assert np.allclose(caption.attention.sum(axis=(1, 2)), 1, atol=0.3)


def test_a_weight_that_is_too_large(tiny_export: TinyExport) -> None:
    """65504 is the largest half; the converter would quietly cut it off."""
    model = onnx.load(tiny_export.fp32 / "encoder.onnx")
    stored = next(item for item in model.graph.initializer if len(item.dims) == 2 and item.data_type == 1)
    values = numpy_helper.to_array(stored).copy()
    values[0, 0] = 1e6
    stored.CopyFrom(numpy_helper.from_array(values, stored.name))
    with pytest.raises(ExportError, match="too large for fp16"):
        module.half_graph(model, set())


def test_what_says_other_things_is_refused(
    tiny_export: TinyExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion that scales what the encoder gives."""
    real = module.half_graph

    def broken(model: onnx.ModelProto, halves: set[str]) -> onnx.ModelProto:
        for item in model.graph.initializer:
            if len(item.dims) == 2 and item.data_type == 1:
                item.CopyFrom(numpy_helper.from_array(1.2 * numpy_helper.to_array(item), item.name))
        return real(model, halves)

    monkeypatch.setattr(module, "half_graph", broken)
    with pytest.raises(ParityError, match="fp16 says other things than fp32"):
        half_bundle(tiny_export.fp32, tmp_path / "fp16", random_pixels(4))


def test_int8_does_not_become_fp16(tiny_export: TinyExport, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="expected a bundle in fp32, found int8"):
        half_bundle(tiny_export.int8, tmp_path / "fp16", random_pixels(1))


def test_a_bundle_can_be_what_is_exported(tiny_export: TinyExport, tmp_path: Path) -> None:
    """fp16 and single graphs of it, from an fp32 bundle; without anything to do, that is said."""
    made = export_bundle(tiny_export.fp32, tmp_path, half=True, single_graph=SearchOverrides(num_beams=1))
    assert [path.name for path in made] == ["fp16", "fp16-single-graph"]
    assert load_bundle(made[0]).manifest.checked_providers == ("cpu",)
    assert (made[1] / FACTS_FILE).is_file()
    (single,) = export_bundle(tiny_export.int8, tmp_path, single_graph=SearchOverrides())
    assert single.name == "int8-single-graph"
    with pytest.raises(ConfigError, match="is a bundle already"):
        export_bundle(tiny_export.fp32, tmp_path)


def test_a_provider_that_is_not_there_cannot_be_checked_on(fp16: Path) -> None:
    with pytest.raises(ProviderError, match="onnxruntime-directml"):
        check_on_providers(fp16, ["directml"], random_pixels(1))
    assert load_bundle(fp16).manifest.checked_providers == ("cpu",)


def test_a_bundle_names_what_it_was_checked_on(fp16: Path) -> None:
    """The processor beside itself: all captions are equal, and nothing is named twice."""
    bundle = check_on_providers(fp16, ["cpu"], random_pixels(3))
    assert load_bundle(fp16).manifest == bundle.manifest
    assert bundle.manifest.checked_providers == ("cpu",)
    assert bundle.manifest.report["providers"]["cpu"]["equal_captions"] == 1
