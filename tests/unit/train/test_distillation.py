"""Distillation from the untouched encoder: its loss, its classes, and that a run keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from kiloword.runtime.errors import ConfigError
from kiloword.train.checkpoint import load_checkpoint
from kiloword.train.distillation import UntouchedEncoder, class_divergence
from kiloword.train.journal import read_journal
from kiloword.train.loop import train
from kiloword.train.models.vit import VisionTransformer, VitConfig
from kiloword.train.recipe_file import recipe_from_table
from tests.shapes import make_shapes, tiny_recipe

CLASSES = 7
PIXELS = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def table(tmp_path: Path) -> dict[str, Any]:
    """Published weights with a classifier, and a recipe of one stage end to end that starts from them."""
    make_shapes(tmp_path / "shapes")
    torch.manual_seed(0)
    encoder = VitConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2).build()
    head = {"head.weight": torch.randn(CLASSES, 32), "head.bias": torch.randn(CLASSES)}
    save_file({**encoder.state_dict(), **head}, tmp_path / "published.safetensors")
    table: dict[str, Any] = tiny_recipe(tmp_path)
    table["encoder"]["weights"] = "published.safetensors"
    table["stages"] = [table["stages"][1] | {"passes": 10, "encoder_learning_rate": 2e-3}]
    table["validation"] = {"every_passes": 10}
    return table


def published(table: dict[str, Any]) -> UntouchedEncoder:
    return UntouchedEncoder(recipe_from_table(table), torch.device("cpu"))


def test_the_divergence_is_zero_for_the_same_and_by_hand_for_others() -> None:
    """(1/2, 1/2) from (1/4, 3/4): half of ln 2 less half of ln 3/2."""
    same = torch.randn(3, 5)
    assert float(class_divergence(same, same)) == pytest.approx(0, abs=1e-6)
    learned, untouched = torch.tensor([[1.0, 3.0]]).log(), torch.zeros(1, 2)
    expected = 0.5 * torch.tensor(2.0).log() - 0.5 * torch.tensor(1.5).log()
    assert float(class_divergence(learned, untouched)) == pytest.approx(float(expected))


def test_the_untouched_encoder_is_the_published_one(table: dict[str, Any], tmp_path: Path) -> None:
    """Even where the one that learns merges tokens and drops paths."""
    table["encoder"] |= {"merge_after": 1, "drop_path": 0.5}
    untouched = published(table)
    weights = load_file(tmp_path / "published.safetensors")
    head = weights.pop("head.weight"), weights.pop("head.bias")
    encoder = VisionTransformer(VitConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2))
    encoder.load_state_dict(weights)
    with torch.no_grad():
        expected = encoder.eval()(PIXELS)[:, 0] @ head[0].t() + head[1]
    assert torch.allclose(untouched.scores(PIXELS), expected, atol=1e-5)


def test_a_run_with_distillation_keeps_the_classes_better(table: dict[str, Any], tmp_path: Path) -> None:
    """On the photos that it learned from, at a rate at which they are forgotten otherwise."""
    untouched = published(table)
    files = sorted((tmp_path / "shapes").glob("*.png"))
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files]))
    divergences = {}
    for weight in (0.0, 5.0):
        table["stages"][0]["distillation"] = weight
        best = train(recipe_from_table(table), tmp_path / f"run {weight}")
        with torch.no_grad():
            learned = untouched.classify(load_checkpoint(best).model.encoder(pixels))
        divergences[weight] = float(class_divergence(learned, untouched.scores(pixels)))
    assert divergences[5.0] < 0.5 * divergences[0.0]
    lines = read_journal(tmp_path / "run 5.0" / "metrics.jsonl")
    kept = [line["classes_kept"] for line in lines if "classes_kept" in line]
    assert kept[0] == 1.0, "before the first step it is the same encoder"
    assert all(0 <= share <= 1 for share in kept)
    assert not any("distillation" in line for line in read_journal(tmp_path / "run 0.0" / "metrics.jsonl"))


def test_weights_without_a_classifier_are_refused(table: dict[str, Any], tmp_path: Path) -> None:
    encoder = VitConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2).build()
    save_file(encoder.state_dict(), tmp_path / "published.safetensors")
    with pytest.raises(ConfigError, match="no classifier"):
        published(table)


@pytest.mark.parametrize(
    ("stage", "encoder", "message"),
    [
        ({"frozen_blocks": 1}, {}, "expected frozen_blocks 0, found 1"),
        ({"distillation": -1.0}, {}, "distillation: expected 0 or more"),
        ({}, {"weights": None}, "expected an encoder of kind 'vit' with weights"),
    ],
)
def test_distillation_that_makes_no_sense_is_refused(
    table: dict[str, Any], stage: dict[str, Any], encoder: dict[str, Any], message: str
) -> None:
    table["stages"][0] |= {"distillation": 1.0, **stage}
    table["encoder"] |= encoder
    with pytest.raises(ConfigError, match=message):
        recipe_from_table(table)
