"""`kiloword calibrate`: the fit where the truth is known, and the whole of it with a tiny bundle."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kiloword.cli import main
from kiloword.runtime.bundle import load_bundle
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.errors import ConfigError
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import ImageSpec
from kiloword.runtime.reliability import predict
from kiloword.runtime.reliability_spec import FEATURES
from kiloword.train.calibration import CalibrationSettings, calibrate, fit_reliability, photo_ciders
from kiloword.train.datasets import CaptionRecord
from kiloword.train.nonphotos import make_nonphotos
from kiloword.train.observations import Observations, alter
from tests.bundles import WORDS, make_tiny_bundle

LOGPROB, FLAT = FEATURES.index("logprob_mean"), FEATURES.index("flat_share")


def observations(rows: int, seed: int, *, flat: float) -> Observations:
    """Rows whose log-probability alone tells good from bad, and whose flatness tells what is a photo."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((rows, len(FEATURES)))
    features[:, FLAT] = flat + 0.1 * random.standard_normal(rows)
    return Observations(features, np.zeros((rows, 0)), ("",) * rows, np.arange(rows))


def fitted(**changes: float) -> tuple[object, Observations, np.ndarray]:
    photos = observations(3000, 1, flat=0.3)
    truth = 1 / (1 + np.exp(-2 * photos.features[:, LOGPROB]))
    ciders = np.where(np.random.default_rng(2).random(3000) < truth, 100.0, 5.0)
    settings = replace(CalibrationSettings(), **changes)
    spec = fit_reliability(
        photos, ciders, observations(3000, 3, flat=0.3), observations(500, 4, flat=0.9), settings, None
    )
    return spec, photos, truth


def test_the_confidence_is_the_true_probability() -> None:
    spec, photos, truth = fitted()
    found = [predict(spec.good, dict(zip(FEATURES, row, strict=True))) for row in photos.features]
    assert np.abs(np.array(found) - truth).mean() < 0.03
    assert spec.facts["check"]["calibration_error"] < 0.05
    assert spec.facts["fitted_on"] + spec.facts["checked_on"] == 3000


def test_as_many_photos_are_lost_as_was_allowed() -> None:
    """On photos that chose nothing: five in a hundred, give or take what chance does to a thousand."""
    spec, *_ = fitted(lost_share=0.05)
    assert spec.facts["check"]["taken_for_no_photo"] == pytest.approx(0.05, abs=0.02)
    assert spec.facts["check"]["too_uncertain"] == pytest.approx(0.05, abs=0.02)
    assert spec.sure_from == 0.5


def test_other_pictures_are_told_apart() -> None:
    spec, *_ = fitted()
    others = observations(300, 9, flat=0.9)
    found = [predict(spec.photo, dict(zip(FEATURES, row, strict=True))) for row in others.features]
    assert np.mean(np.array(found) < spec.photo_from) > 0.99


def test_captions_of_one_kind_teach_nothing() -> None:
    photos = observations(50, 1, flat=0.3)
    with pytest.raises(ConfigError, match="all captions are bad by a CIDEr of 40"):
        fit_reliability(photos, np.zeros(50), photos, photos, CalibrationSettings(), None)


@pytest.fixture
def records(tmp_path: Path) -> list[CaptionRecord]:
    """60 pictures of noise in different lights, each with captions from the tiny bundle's words."""
    random = np.random.default_rng(5)
    made = []
    for number in range(60):
        path = tmp_path / f"{number}.png"
        noise = random.integers(0, 60, (40, 40, 3)) + random.integers(0, 190, 3)
        Image.fromarray(noise.astype(np.uint8)).save(path)
        captions = tuple(" ".join(random.choice(WORDS, 6)) for _ in range(3))
        made.append(CaptionRecord(path, captions, str(number)))
    return made


def test_calibrating_changes_the_manifest_alone(tmp_path: Path, records: list[CaptionRecord]) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    before = {path.name: path.read_bytes() for path in bundle.directory.iterdir()}
    settings = CalibrationSettings(good_cider=5.0, nonphotos=24)
    spec = calibrate(bundle.directory, {"made": records}, settings, provider="cpu", threads=1)
    after = load_bundle(bundle.directory)  # checks hashes and the manifest
    assert after.manifest.reliability == spec
    assert replace(after.manifest, reliability=None) == bundle.manifest
    for name, content in before.items():
        if name != "bundle.json":
            assert hashlib.sha256(content).hexdigest() == after.manifest.files[name].sha256
    assert len(spec.photo.pooled_weights) == 16
    assert spec.facts["data"] == {"made": 60}


def test_a_cache_gives_the_same_numbers(tmp_path: Path, records: list[CaptionRecord]) -> None:
    cache, settings = tmp_path / "cache", CalibrationSettings(good_cider=5.0, nonphotos=24)
    specs = []
    for name in ("first", "second"):
        bundle = make_tiny_bundle(tmp_path / name)
        specs.append(calibrate(bundle.directory, {"made": records}, settings, threads=1, cache=cache))
    assert specs[0] == specs[1]
    assert len(list(cache.glob("*.npz"))) == 3  # photos as they are, altered ones, and what are none
    other = make_tiny_bundle(tmp_path / "third", seed=1)
    assert calibrate(other.directory, {"made": records}, settings, threads=1, cache=cache) != specs[0]


def test_the_runtime_gives_the_probability_that_was_fitted(
    tmp_path: Path, records: list[CaptionRecord]
) -> None:
    """Calibration error by the captioner's own confidences, on the photos that it was fitted on."""
    bundle = make_tiny_bundle(tmp_path / "tiny")
    settings = CalibrationSettings(good_cider=5.0, nonphotos=24, check_share=0.1)
    calibrate(bundle.directory, {"made": records}, settings, provider="cpu", threads=1)
    with Captioner.load(bundle.directory, provider="cpu", threads=1) as captioner:
        captions = list(captioner.caption_many([record.image for record in records]))
    good = photo_ciders(records, [caption.text for caption in captions]) >= 5.0
    assert np.mean([caption.confidence for caption in captions]) == pytest.approx(good.mean(), abs=0.1)


def test_too_few_photos_are_refused(tmp_path: Path, records: list[CaptionRecord]) -> None:
    with pytest.raises(ConfigError, match="needs 30 photos"):
        calibrate(tmp_path, {"made": records[:10]}, CalibrationSettings())


def test_the_command_says_how_well_it_went(
    tmp_path: Path, records: list[CaptionRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(CalibrationSettings, nonphotos=24)  # 600 take most of a minute
    monkeypatch.setattr("kiloword.train.calibration.CalibrationSettings", few)
    bundle = make_tiny_bundle(tmp_path / "tiny")
    lines = [f'{{"file_name": "{one.image.name}", "caption": "{one.captions[0]}"}}' for one in records]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    arguments = ["calibrate", str(bundle.directory), "--data", str(tmp_path / "captions.jsonl")]
    result = CliRunner().invoke(main, [*arguments, "--good-cider", "5", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert "area under ROC" in result.output
    assert load_bundle(bundle.directory).manifest.reliability is not None


def test_made_pictures_are_the_same_each_time_and_differ_by_seed() -> None:
    first, again, other = (
        [np.asarray(one.image).tobytes() for one in make_nonphotos(13, seed)] for seed in (3, 3, 4)
    )
    assert first == again
    assert not set(first) & set(other)
    kinds = [one.kind for one in make_nonphotos(13)]
    assert kinds[0] == kinds[12]
    assert len({one.kind for one in make_nonphotos(12)}) == 12


def test_the_kinds_that_are_measured_on_were_not_learnt_from() -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.nonphotos import make_nonphotos as make_others

    learnt, measured = ({one.kind for one in make(40)} for make in (make_nonphotos, make_others))
    assert not learnt & measured
    assert len(measured) >= 20


def test_altered_photos_are_six_kinds_of_the_same_size() -> None:
    pixels = load_image(
        np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8), ImageSpec(24, 32)
    )
    kinds = {alter(pixels, number).tobytes() for number in range(6)}
    assert len(kinds) == 6
    assert alter(pixels, 7).tobytes() in kinds
    assert {alter(pixels, number).shape for number in range(6)} == {(24, 32, 3)}
