"""Rates and groups; expected values are worked out from the recipe's numbers by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("torch")


from kiloword.train.checkpoint import build_model
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.models.vit import VitConfig
from kiloword.train.recipe import OptimizerRecipe, Stage
from kiloword.train.recipe_file import recipe_from_table
from kiloword.train.schedule import make_optimizer, peak_rate, rate_factor, rate_on_time, share_done
from tests.shapes import tiny_recipe

END_TO_END = Stage("all", 1, 0.1, encoder_learning_rate=0.01, layer_decay=0.5)


@pytest.fixture
def model() -> CaptionModel:
    return build_model(recipe_from_table(tiny_recipe(Path())), vocab_size=9)


def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    factors = [rate_factor(step, 14, 4) for step in range(15)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:14] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * k / 10) for k in range(10)])
    assert factors[14] == pytest.approx(0)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 100), (2, 100), (3, 0), (7, 100)])
def test_a_short_stage_warms_up_over_half_of_it_at_most(steps: int, warmup: int) -> None:
    factors = [rate_factor(step, steps, warmup) for step in range(steps)]
    assert max(factors) == pytest.approx(1.0)
    assert all(0 < factor <= 1 for factor in factors)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("decoder.blocks.0.self_qkv.weight", 0.1),
        ("encoder.norm.weight", 0.01),
        ("encoder.blocks.11.attn.qkv.weight", 0.01),
        ("encoder.blocks.10.attn.qkv.weight", 0.005),
        ("encoder.blocks.0.attn.qkv.weight", 0.01 * 0.5**11),
        ("encoder.patch_embed.proj.weight", 0.01 * 0.5**12),
        ("encoder.cls_token", 0.01 * 0.5**12),
    ],
)
def test_lower_blocks_learn_slower(name: str, expected: float) -> None:
    assert peak_rate(name, END_TO_END, VitConfig(32, 16, 24, 12, 3).build()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("frozen", "learning"),
    [(0, {"patch_embed", "blocks.0", "blocks.1", "norm"}), (1, {"blocks.1", "norm"}), (2, set())],
)
def test_frozen_blocks_do_not_learn(model: CaptionModel, frozen: int, learning: set[str]) -> None:
    """With all blocks frozen the final norm rests, too: the encoder is then what its file says."""
    stage = Stage("one", 1, 0.1, frozen_blocks=frozen, encoder_learning_rate=0.01)
    make_optimizer(model, stage, OptimizerRecipe())
    parts = {"patch_embed", "blocks.0", "blocks.1", "norm"}
    found = {
        part
        for part in parts
        if any(
            parameter.requires_grad and name.startswith(f"encoder.{part}.")
            for name, parameter in model.named_parameters()
        )
    }
    assert found == learning
    assert all(parameter.requires_grad for parameter in model.decoder.parameters())


def test_a_later_stage_thaws_what_an_earlier_one_froze(model: CaptionModel) -> None:
    make_optimizer(model, Stage("one", 1, 0.1, frozen_blocks=2), OptimizerRecipe())
    make_optimizer(model, END_TO_END, OptimizerRecipe())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_only_matrices_decay(model: CaptionModel) -> None:
    optimizer = make_optimizer(model, END_TO_END, OptimizerRecipe(weight_decay=0.3))
    groups = optimizer.param_groups
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    names = {name: decays[id(parameter)] for name, parameter in model.named_parameters()}
    assert len(decays) == len(names)
    assert names["decoder.token_embedding.weight"] == names["encoder.blocks.0.mlp.fc1.weight"] == 0.3
    for name in (
        "encoder.cls_token",
        "encoder.pos_embed",
        "decoder.position_embedding.weight",
        "decoder.norm.weight",
        "decoder.output_bias",
        "encoder.blocks.0.attn.qkv.bias",
    ):
        assert names[name] == 0.0, name


def test_groups_carry_their_peak_rate(model: CaptionModel) -> None:
    optimizer = make_optimizer(model, END_TO_END, OptimizerRecipe(beta1=0.8, beta2=0.9))
    assert {group["peak_rate"] for group in optimizer.param_groups} == {0.1, 0.01, 0.005, 0.0025}
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}


def test_a_stage_is_over_by_its_steps_or_by_the_clock() -> None:
    assert share_done(3, 12, seconds=50.0, minutes=0) == 0.25, "without minutes the clock says nothing"
    assert share_done(3, 12, seconds=6.0, minutes=1) == 0.25, "the steps are further"
    assert share_done(3, 12, seconds=30.0, minutes=1) == 0.5, "the clock is further"
    assert share_done(3, 12, seconds=90.0, minutes=1) == 1.0


def test_the_rate_falls_with_the_clock() -> None:
    assert rate_on_time(0, 0.0, warmup=4) == 0.25
    assert rate_on_time(9, 0.5, warmup=4) == pytest.approx(0.5)
    assert rate_on_time(9, 1.0, warmup=4) == pytest.approx(0)
    assert rate_on_time(0, 0.0, warmup=0) == 1.0
