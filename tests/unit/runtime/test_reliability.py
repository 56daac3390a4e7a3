"""What a bundle's reliability numbers make of a caption; independent values by plain formulas."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kiloword.cli import main
from kiloword.runtime.bundle import load_bundle, write_manifest
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.captions import NO_DESCRIPTION
from kiloword.runtime.errors import BundleError
from kiloword.runtime.reliability import NOT_A_PHOTO, caption_features, judge, picture_features, pool, predict
from kiloword.runtime.reliability_spec import FEATURES, LinearModel, ReliabilitySpec
from tests.bundles import IMAGE_SIZE, make_tiny_bundle

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
ALWAYS = LinearModel(bias=9.0, weights={})


def spec(**changes: object) -> ReliabilitySpec:
    """Confidence = exp(mean log-probability) of a caption, as 1 / (1 + e^-x) of it; every picture a photo."""
    plain = ReliabilitySpec(
        good=LinearModel(bias=0.0, weights={"logprob_mean": 1.0}),
        photo=ALWAYS,
        photo_from=0.5,
        reliable_from=0.2,
        sure_from=0.4,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_features_have_the_documented_names() -> None:
    assert (*caption_features([-1.0]), *picture_features(PIXELS)) == FEATURES
    assert caption_features([]).keys() == caption_features([-1.0]).keys()


def test_caption_features_by_hand() -> None:
    found = caption_features([-1.0, -2.0, -0.5, -4.5])
    assert found == {
        "logprob_mean": -2.0, "logprob_min": -4.5, "logprob_sum": -8.0, "logprob_first": -3.5, "tokens": 4.0,
    }  # fmt: skip


def test_picture_features_against_plain_loops() -> None:
    """Brightness by BT.601, colours and entropy of every second row and column; edges one step at a time."""
    found = picture_features(PIXELS)
    luma = (PIXELS.astype(int) @ [77, 150, 29]) >> 8
    assert found["brightness"] == pytest.approx(luma[::2, ::2].mean() / 255)
    assert found["contrast"] == pytest.approx(luma[::2, ::2].std() / 255)
    colours: dict[tuple[int, ...], int] = {}
    for row in PIXELS[::2, ::2]:
        for pixel in row:
            key = tuple(int(value) // 16 for value in pixel)
            colours[key] = colours.get(key, 0) + 1
    shares = [count / 768 for count in colours.values()]
    assert found["colours"] == pytest.approx(math.log2(1 + len(colours)))
    assert found["colour_entropy"] == pytest.approx(-sum(share * math.log2(share) for share in shares))
    assert found["main_colour_share"] == pytest.approx(max(shares))
    across = [abs(luma[y, x + 1] - luma[y, x]) for y in range(64) for x in range(47)]
    down = [abs(luma[y + 1, x] - luma[y, x]) for y in range(63) for x in range(48)]
    assert found["edge_density"] == pytest.approx((np.mean(across) + np.mean(down)) / 2 / 255)
    assert found["flat_share"] == pytest.approx(np.mean([step < 2 for step in across + down]), rel=1e-6)
    assert found["strong_share"] == pytest.approx(np.mean([step > 40 for step in across + down]), rel=1e-6)


@pytest.mark.parametrize("value", [0, 255])
def test_features_of_a_picture_of_one_colour_are_finite(value: int) -> None:
    found = picture_features(np.full((32, 32, 3), value, dtype=np.uint8))
    assert all(map(math.isfinite, found.values()))
    assert (found["contrast"], found["colour_entropy"], found["flat_share"]) == (0, 0, 1)
    assert (found["black_share"], found["white_share"]) == ((1, 0) if value == 0 else (0, 1))


def test_prediction_is_the_logistic_function_of_the_weighted_sum() -> None:
    model = LinearModel(bias=0.5, weights={"tokens": 0.25}, pooled_weights=(1.0, -2.0))
    found = predict(model, {"tokens": 4.0, "contrast": 7.0}, np.array([3.0, 1.0], dtype=np.float32))
    assert found == pytest.approx(1 / (1 + math.exp(-(0.5 + 1 + 3 - 2))))
    assert predict(LinearModel(bias=-1e9, weights={}), {}) < 1e-20


def test_pooling_is_the_mean_over_image_tokens() -> None:
    output = np.random.default_rng(1).standard_normal((2, 5, 3)).astype(np.float32)
    expected = [output[head, :, place].mean() for head in range(2) for place in range(3)]
    assert pool(output) == pytest.approx(np.array(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("logprob", "reliable", "sure"), [(-0.1, True, True), (-0.9, True, False), (-2.5, False, False)]
)
def test_thresholds_come_from_the_bundle(logprob: float, reliable: bool, sure: bool) -> None:
    """1 / (1 + e^0.1) = 0.475, 1 / (1 + e^0.9) = 0.289, 1 / (1 + e^2.5) = 0.076, against 0.4 and 0.2."""
    found = judge(spec(), PIXELS, {}, [logprob])
    assert found.confidence == pytest.approx(1 / (1 + math.exp(-logprob)))
    assert (found.reliable, found.sure) == (reliable, sure)
    assert (found.reason is None) == reliable


def test_what_is_no_photo_is_refused_whatever_the_confidence() -> None:
    by_light = LinearModel(bias=-5.0, weights={"brightness": 10.0})
    dark, light = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 250, np.uint8)
    assert judge(spec(photo=by_light), light, {}, [-0.1]).reliable
    refused = judge(spec(photo=by_light), dark, {}, [-0.1])
    assert (refused.reliable, refused.reason) == (False, NOT_A_PHOTO)
    assert not judge(spec(photo=by_light), dark, {}, [-0.1], min_confidence=0.0).reliable


def test_a_least_confidence_takes_the_place_of_the_bundles() -> None:
    assert not judge(spec(), PIXELS, {}, [-0.1], min_confidence=0.5).reliable
    assert judge(spec(), PIXELS, {}, [-2.5], min_confidence=0.05).reliable
    reason = judge(spec(), PIXELS, {}, [-0.1], min_confidence=0.5).reason
    assert reason == "too uncertain: confidence 0.48, expected 0.50 or more"


def test_without_numbers_every_caption_is_reliable() -> None:
    """As before: confidence is the geometric mean of the tokens' probabilities."""
    found = judge(None, PIXELS, {}, [math.log(0.5), math.log(0.125)])
    assert (found.confidence, found.reliable, found.sure) == (pytest.approx(0.25), True, True)
    assert not judge(None, PIXELS, {}, [math.log(0.25)], min_confidence=0.3).reliable


def test_a_captioner_judges_its_captions(tmp_path: Path) -> None:
    """Through the whole of it: pooled output, JSON and back, captions of one photo and of a batch alike."""
    bundle = make_tiny_bundle(tmp_path / "tiny")
    output = next(one for one in bundle.manifest.encoder.outputs if one.role == "context")
    width = int(output.axes[1]) * int(output.axes[3])
    photo = LinearModel(bias=-3.0, weights={"brightness": 6.0}, pooled_weights=(0.0,) * width)
    reliability = spec(photo=photo, pooled_output=output.name, reliable_from=0.0, sure_from=1.0)
    write_manifest(bundle.directory, replace(bundle.manifest, reliability=reliability))
    assert load_bundle(bundle.directory).manifest.reliability == reliability
    dark, light = (np.full((IMAGE_SIZE, IMAGE_SIZE, 3), value, dtype=np.uint8) for value in (10, 240))
    with Captioner.load(bundle.directory, provider="cpu", threads=1) as captioner:
        refused, unsure = captioner.caption_pixels(np.stack([dark, light]))
        assert captioner.caption(light).confidence == pytest.approx(unsure.confidence, abs=1e-5)
    assert (refused.reliable, refused.reason, refused.spoken) == (False, NOT_A_PHOTO, NO_DESCRIPTION)
    assert refused.text
    assert unsure.reliable
    assert unsure.spoken == f"probably {unsure.text}"
    mean = sum(unsure.token_logprobs) / len(unsure.token_logprobs)
    assert unsure.mean_token_probability == pytest.approx(math.exp(mean))
    assert unsure.confidence == pytest.approx(1 / (1 + math.exp(-mean)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"photo_from": 1.5}, "photo_from: expected 0 to 1"),
        ({"good": {"bias": 0.0, "weights": {"length": 1.0}}}, "no such feature: length"),
        ({"good": {"bias": 0.0, "weights": {}, "pooled_weights": [1.0]}}, "pooled_output is None"),
        ({"threshold": 1}, "unknown key 'threshold'"),
    ],
)
def test_wrong_numbers_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    path = bundle.directory / "bundle.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["reliability"] = {**asdict(spec()), **changes}
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle.directory)


@pytest.fixture
def photos(tmp_path: Path) -> tuple[str, str]:
    """A dark picture and a light one."""
    for name, value in (("dark", 10), ("light", 240)):
        Image.new("RGB", (20, 20), (value,) * 3).save(tmp_path / f"{name}.png")
    return str(tmp_path / "dark.png"), str(tmp_path / "light.png")


def caption_lines(*arguments: str) -> list[str]:
    result = CliRunner().invoke(main, ["caption", *arguments, "--provider", "cpu", "--threads", "1"])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_the_command_line_shows_no_caption_that_is_not_reliable(
    tmp_path: Path, photos: tuple[str, str]
) -> None:
    """Dark is no photo here, light is an uncertain one; JSONL has the captions all the same."""
    bundle = make_tiny_bundle(tmp_path / "tiny")
    by_light = LinearModel(bias=-5.0, weights={"brightness": 10.0})
    reliability = spec(photo=by_light, reliable_from=0.0, sure_from=1.0)
    write_manifest(bundle.directory, replace(bundle.manifest, reliability=reliability))
    common = (*photos, "--bundle", str(bundle.directory))
    rows = [json.loads(line) for line in caption_lines(*common, "--format", "jsonl")]
    assert [(row["reliable"], row["reason"]) for row in rows] == [(False, NOT_A_PHOTO), (True, None)]
    assert all(row["caption"] and 0 < row["confidence"] < 1 for row in rows)
    assert caption_lines(*common) == [
        f"{photos[0]}: no reliable description",
        f"{photos[1]}: probably {rows[1]['caption']}",
    ]
    strict = caption_lines(*common, "--min-confidence", "1")
    assert [line.partition(": ")[2] for line in strict] == [NO_DESCRIPTION] * 2
    (reason,) = {
        json.loads(line)["reason"].partition(":")[0]
        for line in caption_lines(photos[1], *common[2:], "--format", "jsonl", "--min-confidence", "1")
    }
    assert reason == "too uncertain"


def test_nothing_is_written_beside_a_photo_that_gets_no_description(
    tmp_path: Path, photos: tuple[str, str]
) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    by_light = LinearModel(bias=-5.0, weights={"brightness": 10.0})
    write_manifest(
        bundle.directory, replace(bundle.manifest, reliability=spec(photo=by_light, reliable_from=0.0))
    )
    caption_lines(*photos, "--bundle", str(bundle.directory), "--sidecar", "txt")
    assert not Path(photos[0]).with_suffix(".txt").exists()
    assert Path(photos[1]).with_suffix(".txt").exists()


def test_a_bundle_without_numbers_is_as_before(tmp_path: Path, photos: tuple[str, str]) -> None:
    """Its confidence is the mean probability of its tokens; a least confidence can be asked for."""
    bundle = make_tiny_bundle(tmp_path / "tiny")
    common = (photos[0], "--bundle", str(bundle.directory))
    (line,) = caption_lines(*common)
    assert "probably" not in line
    assert line != NO_DESCRIPTION
    assert caption_lines(*common, "--min-confidence", "1") == [NO_DESCRIPTION]
