"""The gate: what is refused, with which figures, what `--force` does, and what `auto` takes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from onnx import numpy_helper  # noqa: E402

from kiloword import Bundle, load_bundle  # noqa: E402
from kiloword.export import gate, quantized, trial  # noqa: E402
from kiloword.export.gate import CaptionedPhotos, Verdict  # noqa: E402
from kiloword.export.photos import Calibration  # noqa: E402
from kiloword.export.quantized import QuantizeOptions, quantize_bundle  # noqa: E402
from kiloword.export.recipes import candidates, read_recipe  # noqa: E402
from kiloword.export.trial import Contestant, Course  # noqa: E402
from kiloword.runtime.describe import describe_bundle  # noqa: E402
from kiloword.runtime.errors import ConfigError, ExportError  # noqa: E402
from kiloword.runtime.footprint import Footprint  # noqa: E402
from kiloword.runtime.quantization_spec import QualityLimits, TrialFigures  # noqa: E402
from kiloword.train.datasets import CaptionRecord  # noqa: E402
from tests.checkpoints import TinyExport, random_pixels  # noqa: E402

SLOW = QualityLimits(min_times_as_fast=0.0)
"""A model this small may be slower in int8: where a test is about something else, that must not decide it."""


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes of their own to weigh bundles; `test_footprint.py` starts them."""
    monkeypatch.setattr(gate, "measure_footprint", lambda bundle: Footprint(12.5, 100_000_000))
    monkeypatch.setattr(trial, "MOST_ROUNDS", 2)


@pytest.fixture
def photos() -> Calibration:
    return Calibration(random_pixels(8), "random pictures")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Milliseconds that a photo takes by precision, or by recipe: no clock decides."""
    times: dict[str, float] = {"fp32": 10.0, "int8": 5.0}
    real = Contestant.run

    def run(self: Contestant, photo: trial.Pixels, course: Course) -> None:
        real(self, photo, course)
        name = self.bundle.directory.name
        course.encode_ms[-1] = times.get(name, times[self.bundle.manifest.precision])
        course.generate_ms[-1] = 0.0

    monkeypatch.setattr(Contestant, "run", run)
    return times


def test_what_is_slower_than_fp32_is_refused_with_the_figures(
    tiny_export: TinyExport, tmp_path: Path, photos: Calibration, clock: dict[str, float]
) -> None:
    clock["int8"] = 12.5
    with pytest.raises(ExportError) as caught:
        quantize_bundle(tiny_export.fp32, tmp_path / "int8", photos, QuantizeOptions("static"))
    message = str(caught.value)
    assert (
        "static: it is too slow: 12.50 ms per photo, fp32 10.00 ms (0.80x; 1x or more is expected)" in message
    )
    assert "--force" in message
    assert list(tmp_path.iterdir()) == []


def test_force_overrules_and_the_bundle_says_so(
    tiny_export: TinyExport, tmp_path: Path, photos: Calibration, clock: dict[str, float]
) -> None:
    clock["int8"] = 12.5
    options = QuantizeOptions("static", force=True)
    bundle = load_bundle(quantize_bundle(tiny_export.fp32, tmp_path / "int8", photos, options).directory)
    spec = bundle.manifest.quantization
    assert spec is not None
    assert spec.forced
    assert "too slow" in spec.refused[0]
    assert "FORCED: the gate refused this bundle" in describe_bundle(bundle)
    assert "FORCED" in (bundle.directory / "CARD.md").read_text(encoding="utf-8")


def drop_scales(path: Path) -> None:
    """The embedding's rows lose their scales: words become others."""
    model = onnx.load(path)
    for item in model.graph.initializer:
        if item.name.endswith("_scales") and len(item.dims) == 2:
            item.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(item) + 1, item.name))
    onnx.save(model, path)


def test_a_broken_decoder_is_refused(
    tiny_export: TinyExport, tmp_path: Path, photos: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fast, all in int8, and nonsense."""
    real = quantized.quantize_decoder

    def broken(source: Bundle, target: Path, *recipe: object, **options: object) -> list[str]:
        outliers = real(source, target, *recipe, **options)  # type: ignore[arg-type]
        drop_scales(target)
        return outliers

    monkeypatch.setattr(quantized, "quantize_decoder", broken)
    with pytest.raises(ExportError) as caught:
        quantize_bundle(tiny_export.fp32, tmp_path / "int8", photos, QuantizeOptions("auto", limits=SLOW))
    found = re.findall(
        r"(static\+weight-only|static|weight-only): it says other things than fp32: (\d+)% equal",
        str(caught.value),
    )
    assert [name for name, _ in found] == ["static", "static+weight-only", "weight-only"]
    assert all(int(share) < 50 for _, share in found)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_is_not_int8_is_refused(
    tiny_export: TinyExport, tmp_path: Path, photos: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was copied: the operators are counted in the graph, not in what was asked for."""

    def copy_only(source: Path, target: Path, *_: object, **__: object) -> list[str]:
        shutil.copy(source, target)
        return []

    monkeypatch.setattr(quantized, "quantize_encoder", copy_only)
    with pytest.raises(ExportError, match="the int8 encoder multiplies no bytes when it runs"):
        quantize_bundle(tiny_export.fp32, tmp_path / "int8", photos, QuantizeOptions("static", limits=SLOW))


def test_a_recipe_that_lets_neighbours_in_is_refused_where_it_must_not(
    tiny_export: TinyExport, tmp_path: Path, photos: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody swaps static ranges for dynamic ones: the measurement finds it, not the name."""
    real = quantized.quantize_encoder

    def dynamic(source: Path, target: Path, pixels: trial.Pixels, *_: object, **__: object) -> list[str]:
        return real(source, target, pixels, "dynamic")

    monkeypatch.setattr(quantized, "quantize_encoder", dynamic)
    with pytest.raises(ExportError, match="depends on what else is in its batch"):
        quantize_bundle(tiny_export.fp32, tmp_path / "int8", photos, QuantizeOptions("static", limits=SLOW))


def test_dynamic_passes_and_says_what_it_is(
    tiny_export: TinyExport, tmp_path: Path, photos: Calibration, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked for by name; its ranges are the batch's, which is measured and said."""
    bundle = quantize_bundle(
        tiny_export.fp32, tmp_path / "int8", photos, QuantizeOptions("dynamic", limits=SLOW)
    )
    spec = bundle.manifest.quantization
    assert spec is not None
    assert not spec.batch_invariant
    assert spec.chosen.batch_difference > gate.COMPANY_TOLERANCE
    assert set(spec.chosen.figures.encoder.integer_operators) <= {
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
        "MatMulNBits",
    }
    assert spec.chosen.figures.encoder.float_products == spec.chosen.figures.decoder.float_products == 0
    assert "may depend on the others in its batch" in caplog.text


def test_auto_takes_the_fastest_that_passes(
    tiny_export: TinyExport, tmp_path: Path, photos: Calibration, clock: dict[str, float]
) -> None:
    """Of those that keep photos apart; of all, where speed alone is asked for."""
    clock.update({"static": 5.0, "weight-only": 4.0, "static+dynamic": 3.0, "dynamic+weight-only": 9.0})
    clock |= {"dynamic": 11.0, "static+weight-only": 5.0}
    calm = quantize_bundle(tiny_export.fp32, tmp_path / "calm", photos, QuantizeOptions())
    fast = quantize_bundle(tiny_export.fp32, tmp_path / "fast", photos, QuantizeOptions(purpose="speed"))
    for bundle, recipe, count in ((calm, "weight-only", 3), (fast, "static+dynamic", 6)):
        spec = bundle.manifest.quantization
        assert spec is not None
        assert spec.recipe == recipe
        assert len(spec.tried) == count
        assert not spec.forced
    assert fast.manifest.quantization is not None
    refused = {one.recipe: one.refused for one in fast.manifest.quantization.tried}
    assert "too slow: 11.00 ms" in refused["dynamic"][0]
    assert refused["static"] == ()


def test_quality_decides_where_captions_are_given(
    tiny_export: TinyExport,
    tmp_path: Path,
    photos: Calibration,
    clock: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fastest loses too much, the next one does not: scores by name, in place of an evaluation."""
    scores = {"fp32": (50.0, 20.0), "weight-only": (47.9, 19.5), "static": (48.5, 19.0)}
    clock.update({"static": 5.0, "static+weight-only": 6.0, "weight-only": 4.0})

    def scored(figures: gate.VariantFigures, directory: Path, _: CaptionedPhotos) -> gate.VariantFigures:
        cider, bleu_4 = scores[directory.name]
        return replace(figures, cider=cider, bleu_4=bleu_4)

    monkeypatch.setattr(gate, "_scored", scored)
    captioned = CaptionedPhotos("a data set", [])
    bundle = quantize_bundle(tiny_export.fp32, tmp_path / "int8", photos, QuantizeOptions(), captioned)
    spec = bundle.manifest.quantization
    assert spec is not None
    assert spec.recipe == "static"
    assert (spec.fp32.cider, spec.chosen.figures.cider, spec.chosen.figures.bleu_4) == (50.0, 48.5, 19.0)
    (reason,) = next(one.refused for one in spec.tried if one.recipe == "weight-only")
    assert reason == "it loses 2.1 points of CIDEr-D (50.0 -> 47.9; 2 or fewer may be lost)"
    assert "a data set" in describe_bundle(bundle)


def test_captions_by_people_are_scored(tiny_export: TinyExport, tmp_path: Path, repository: Path) -> None:
    """The real evaluation: fp32's own captions as references give fp32 the highest score there is."""
    files = sorted((repository / "examples" / "photos").glob("*.jpg"))[:3]
    from kiloword import Captioner

    with Captioner.load(tiny_export.fp32, provider="cpu", threads=1) as captioner:
        records = [
            CaptionRecord(image_id=file.stem, image=file, captions=(captioner.caption(file).text,))
            for file in files
        ]
    pixels = Calibration(random_pixels(4), "random pictures")
    bundle = quantize_bundle(
        tiny_export.fp32,
        tmp_path / "int8",
        pixels,
        QuantizeOptions("weight-only", limits=replace(SLOW, max_loss=1000)),
        CaptionedPhotos("its own captions", records),
    )
    spec = bundle.manifest.quantization
    assert spec is not None
    assert spec.fp32.bleu_4 == pytest.approx(100)
    assert spec.dataset_photos == 3
    assert spec.chosen.figures.cider is not None


def test_the_fastest_is_no_matter_of_noise(tiny_export: TinyExport) -> None:
    """2 % faster is a draw, which the more exact one wins; 10 % is none."""
    spec = load_bundle(tiny_export.int8).manifest.quantization
    assert spec is not None
    one = replace(spec.chosen, refused=())

    def verdict(second: float) -> TrialFigures | None:
        exact = replace(one, recipe="static", times_as_fast=2.0, equal_words=0.9)
        other = replace(one, recipe="weight-only", times_as_fast=second, equal_words=0.8)
        return Verdict(spec.fp32, (exact, other), 2).best()

    near, far = verdict(2.02), verdict(2.2)
    assert near is not None
    assert far is not None
    assert (near.recipe, far.recipe) == ("static", "weight-only")


def test_only_fp32_is_quantized(tiny_export: TinyExport, tmp_path: Path, photos: Calibration) -> None:
    with pytest.raises(ExportError, match="expected a bundle in fp32, found int8"):
        quantize_bundle(tiny_export.int8, tmp_path / "again", photos)


def test_recipes_by_name() -> None:
    assert read_recipe("static+static") == read_recipe("static")
    assert read_recipe("weight-only+dynamic").decoder == "dynamic"
    assert all(recipe.batch_invariant for recipe in candidates("auto", "reproducible"))
    assert [recipe.name for recipe in candidates("dynamic", "reproducible")] == ["dynamic"]
    for name in ("int8", "dynamic+int8", "static+", "+dynamic", ""):
        with pytest.raises(ConfigError, match="expected a recipe for int8"):
            read_recipe(name)


def test_neighbours_in_a_batch(tiny_export: TinyExport) -> None:
    """Of fp32 nothing changes; the measure itself finds a neighbour that is let in on purpose."""
    contestant = Contestant(tiny_export.fp32)
    pixels = random_pixels(5)
    assert trial.company(contestant, pixels) == (1.0, pytest.approx(0, abs=1e-5))
    real: Callable[[trial.Pixels], trial.Tensors] = contestant.encode

    def mixed(batch: trial.Pixels) -> trial.Tensors:
        return {name: value + 0.5 * value.mean(axis=0) for name, value in real(batch).items()}

    contestant.encode = mixed  # type: ignore[method-assign]
    same, difference = trial.company(contestant, pixels)
    assert difference > 0.05
    assert same < 1


def test_shares_of_equal_captions_and_words() -> None:
    """By hand: one caption of two is equal; 3 of 3 and 1 of 4 words stand at the same place."""
    assert trial.agreement(["a red dog", "a cat sits"], ["a red dog", "a dog and cat"]) == (0.5, 0.5714)


def test_median_and_nearest_rank() -> None:
    figures = trial.time_figures([float(value) for value in range(1, 101)])
    assert (figures.median, figures.p95) == (50.5, 95.0)
    assert trial.time_figures([3.0]).p95 == 3.0
    paired = Course(encode_ms=[2.0, 4.0, 9.0], generate_ms=[0.0, 0.0, 0.0])
    reference = Course(encode_ms=[4.0, 4.0, 9.0], generate_ms=[0.0, 8.0, 0.0])
    assert np.isclose(trial.times_as_fast(paired, reference), 2.0)
