"""What a bundle was taught (labels, a draft) goes along into its other precisions, and holds there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxscript")

from kiloword import Captioner, load_bundle
from kiloword.export.half import half_bundle
from kiloword.export.photos import Calibration
from kiloword.export.quantized import quantize_bundle
from kiloword.runtime.bundle import write_manifest
from kiloword.runtime.draft_fitting import teach_draft
from kiloword.runtime.generation import generate
from kiloword.runtime.labels import LabelSpec
from kiloword.runtime.sessions import load_sessions
from tests.checkpoints import FORCED, TinyExport, random_pixels


@pytest.fixture(scope="module")
def taught(tiny_export: TinyExport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 bundle with a draft and with labels."""
    directory = tmp_path_factory.mktemp("taught") / "fp32"
    shutil.copytree(tiny_export.fp32, directory)
    teach_draft(directory, list(random_pixels(30, seed=8)), provider="cpu", threads=1)
    manifest = load_bundle(directory).manifest
    output = manifest.encoder.outputs_of("context")[0]
    features = 2 * int(output.axes[1]) * int(output.axes[3])
    np.savez(
        directory / "labels.npz",
        weight=np.ones((2, features), np.int8),
        scale=np.ones(2, np.float32),
        bias=np.array([0, 100], np.float32),
    )
    (directory / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")
    labels = LabelSpec("labels.npz", "labels.txt", output.name, 0.5)
    write_manifest(directory, replace(manifest, labels=labels))
    return directory


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_another_precision_knows_it_too(taught: Path, tmp_path: Path, precision: str) -> None:
    """Both files are there, and a draft changes no caption of the new graphs."""
    if precision == "fp16":
        half_bundle(taught, tmp_path / precision, random_pixels(4))
    else:
        photos = Calibration(random_pixels(8), "random pixels")
        quantize_bundle(taught, tmp_path / precision, photos, FORCED)
    made, source = load_bundle(tmp_path / precision), load_bundle(taught)
    assert (made.manifest.labels, made.manifest.draft) == (source.manifest.labels, source.manifest.draft)
    for name in source.manifest.taught_files:
        assert made.manifest.files[name] == source.manifest.files[name]
    sessions, settings = load_sessions(made, "cpu", 1), replace(made.manifest.generation, num_beams=1)
    with Captioner.load(made.directory, provider="cpu", threads=1) as captioner:
        for image in random_pixels(6, seed=9):
            (caption,) = captioner.caption_pixels(image[None], num_beams=1)
            encoded = sessions.encoder.encode(image[None])
            (expected,) = generate(sessions.decoder, encoded, made.manifest.tokens, settings)
            assert caption.token_ids == expected.token_ids
