"""`kiloword label`: a bundle learns the names that a classifier gives, and says them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kiloword.cli import main
from kiloword.runtime.bundle import load_bundle, write_manifest
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.captions import NO_DESCRIPTION
from kiloword.runtime.errors import BundleError, ConfigError
from kiloword.runtime.images import load_image
from kiloword.runtime.labels import Labeller
from kiloword.train.datasets import CaptionRecord
from tests.bundles import make_tiny_bundle

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from kiloword.train.label_fitting import Teacher, load_teacher, teach_labels  # noqa: E402
from kiloword.train.models.vit import VitConfig  # noqa: E402

NAMES = ("night", "dusk", "day")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_tiny_bundle(tmp_path / "bundle").directory


@pytest.fixture
def records(tmp_path: Path) -> list[CaptionRecord]:
    """Photos from black to white with a little grain, in turn."""
    random = np.random.default_rng(2)
    found = []
    for number in range(60):
        light = 20 + 210 * (number % 12) / 11
        pixels = np.clip(random.normal(light, 6, (48, 48, 3)), 0, 255).astype(np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        found.append(CaptionRecord(image=path, captions=("a photo",), image_id=str(number)))
    return found


class ByLight(Teacher):
    """Knows day from night by the mean of the pixels, and is sure of it."""

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        light = pixels.mean(axis=(1, 2, 3))[:, None] / 255
        return (-200 * (light - np.array([0.1, 0.5, 0.9])) ** 2).astype(np.float32)


def by_light() -> Teacher:
    tiny = VitConfig(image_size=16, width=64, depth=1, heads=1).build()
    return ByLight(tiny, torch.nn.Linear(64, 3), NAMES)


def test_it_says_what_the_classifier_says(bundle: Path, records: list[CaptionRecord]) -> None:
    spec = teach_labels(bundle, records, by_light(), threads=1)
    assert spec.facts["checked_on"] == 12
    assert spec.facts["classifiers_answer_named_where_it_is_sure"] > 0.8
    assert load_bundle(bundle).manifest.labels == spec
    with Captioner.load(bundle, provider="cpu", threads=1, min_confidence=1.0) as captioner:
        dark, light = (captioner.caption(records[number].image) for number in (0, 11))
    assert dark.labels[0] == "night"
    assert light.labels[0] == "day"
    assert not dark.reliable
    assert dark.spoken == f"{NO_DESCRIPTION}; perhaps: {', '.join(dark.labels)}"


def test_the_runtime_computes_the_softmax_of_the_layer(bundle: Path, records: list[CaptionRecord]) -> None:
    """Against numpy on the arrays in the file, from the encoder's output by its definition."""
    spec = teach_labels(bundle, records, by_light(), threads=1)
    loaded = load_bundle(bundle)
    with Captioner.load(bundle, provider="cpu", threads=1) as captioner:
        pixels = load_image(records[5].image, loaded.manifest.image)
        encoded = captioner._open_sessions().encoder.encode(pixels[None])
    context = encoded[spec.output][0]
    features = np.concatenate([context[:, 0].reshape(-1), context[:, 1:].mean(axis=1).reshape(-1)])
    with np.load(bundle / spec.weights) as arrays:
        logits = (arrays["weight"] * arrays["scale"][:, None]) @ features + arrays["bias"]
    expected = np.exp(logits) / np.exp(logits).sum()
    found = Labeller(spec, bundle).probabilities({spec.output: context})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    order = [NAMES[index] for index in np.argsort(-expected) if expected[index] >= spec.least]
    assert list(Labeller(spec, bundle)({spec.output: context})) == order[: spec.most]


def test_a_bundle_without_labels_says_none(bundle: Path, records: list[CaptionRecord]) -> None:
    with Captioner.load(bundle, provider="cpu", threads=1, min_confidence=1.0) as captioner:
        caption = captioner.caption(records[0].image)
    assert (caption.labels, caption.spoken) == ((), NO_DESCRIPTION)


def test_the_command(bundle: Path, records: list[CaptionRecord], tmp_path: Path) -> None:
    size = load_bundle(bundle).manifest.image.height
    encoder = VitConfig(image_size=size, patch_size=size // 2, width=64, depth=1, heads=1).build()
    head = {"head.weight": torch.randn(3, 64), "head.bias": torch.zeros(3)}
    save_file({**encoder.state_dict(), **head}, tmp_path / "vit.safetensors")
    (tmp_path / "names.txt").write_text("night, dark\ndusk\nday\n", encoding="utf-8")
    lines = [f'{{"image": "{record.image.name}", "caption": "a photo"}}' for record in records]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    classifier = ("--classifier", str(tmp_path / "vit.safetensors"), "--names", str(tmp_path / "names.txt"))
    data = ("--data", str(tmp_path / "captions.jsonl"), "--views", "1", "--threads", "1")
    result = CliRunner().invoke(main, ["label", str(bundle), *classifier, *data])
    assert result.exit_code == 0, result.output
    assert "learned from 48 photos; on 12 others" in result.output
    assert (bundle / "labels.txt").read_text(encoding="utf-8") == "night\ndusk\nday\n"


def test_classifiers_that_are_none(tmp_path: Path) -> None:
    save_file({"cls_token": torch.zeros(1, 1, 64)}, tmp_path / "headless.safetensors")
    save_file({"head.weight": torch.zeros(3, 64), "head.bias": torch.zeros(3)}, tmp_path / "head.safetensors")
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no classifier"):
        load_teacher(tmp_path / "headless.safetensors", names, 32)
    with pytest.raises(ConfigError, match="expected 3 names, found 2"):
        load_teacher(tmp_path / "head.safetensors", names, 32)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_teacher(names, names, 32)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"least": 1.5}, "labels.least"),
        ({"most": 0}, "labels.most"),
        ({"output": "pixels"}, "labels.output"),
        ({"weights": "nowhere.npz"}, "nowhere.npz is no file of the bundle"),
    ],
)
def test_a_manifest_that_contradicts_itself(
    bundle: Path, records: list[CaptionRecord], change: dict[str, Any], part: str
) -> None:
    spec = teach_labels(bundle, records, by_light(), threads=1)
    manifest = load_bundle(bundle).manifest
    with pytest.raises(BundleError, match=part):
        write_manifest(bundle, replace(manifest, labels=replace(spec, **change)))


def test_weights_that_do_not_fit_their_names(bundle: Path, records: list[CaptionRecord]) -> None:
    spec = teach_labels(bundle, records, by_light(), threads=1)
    (bundle / spec.names).write_text("night\n", encoding="utf-8")
    with pytest.raises(BundleError, match="does not fit its names"):
        Labeller(spec, bundle)
    (bundle / spec.weights).write_bytes(b"PK nothing")
    with pytest.raises(BundleError, match="holds no labels"):
        Labeller(spec, bundle)
