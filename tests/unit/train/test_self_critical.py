"""Self-critical training: rewards, samples and the gradient, each against a plain reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from kiloword.train.captions import EncodedCaptions, TokenIds
from kiloword.train.journal import read_journal
from kiloword.train.loop import train
from kiloword.train.metrics.cider import corpus_cider
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.models.transformer import TransformerConfig
from kiloword.train.models.vit import VitConfig
from kiloword.train.objectives import Seen, caption_loss, objectives_of
from kiloword.train.recipe import Stage
from kiloword.train.recipe_file import recipe_from_table
from kiloword.train.self_critical import CaptionReward, repetitions, sample_captions, self_critical_loss
from tests.shapes import make_shapes, tiny_recipe

IDS = TokenIds(pad=0, bos=1, eos=2, unk=3)


@pytest.fixture
def model() -> CaptionModel:
    torch.manual_seed(0)
    encoder = VitConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2)
    decoder = TransformerConfig(width=16, depth=1, heads=2, max_length=8)
    return CaptionModel(encoder, decoder, 9).eval()


def features(pictures: int) -> torch.Tensor:
    return torch.randn(pictures, 5, 16, generator=torch.Generator().manual_seed(1))


def encoded(*captions: list[int]) -> EncodedCaptions:
    arrays = tuple(np.array(caption) for caption in captions)
    return EncodedCaptions(arrays, arrays)


def test_the_reward_is_cider_d_with_the_end_as_a_word() -> None:
    photos = [encoded([1, 4, 5, 6, 2], [1, 4, 6, 5, 2]), encoded([1, 7, 8, 4, 2]), encoded([1, 8, 8, 5, 2])]
    reward = CaptionReward(photos, IDS)
    sampled = np.array([[[1, 4, 5, 6, 2, 0], [1, 4, 5, 6, 0, 0]]])
    found = reward(np.array([0]), sampled)
    references = [
        [["4", "5", "6", "2"], ["4", "6", "5", "2"]],
        [["7", "8", "4", "2"]],
        [["8", "8", "5", "2"]],
    ]
    others = [references[1][0], references[2][0]]
    whole = 3 * corpus_cider(references, [["4", "5", "6", "2"], *others])
    cut = 3 * corpus_cider(references, [["4", "5", "6"], *others])
    assert found.shape == (1, 2)
    assert found[0, 0] - found[0, 1] == pytest.approx(whole - cut, rel=1e-5)
    assert found[0, 0] > found[0, 1], "a sentence that stops in the middle must not pay"


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_probabilities_of_the_model(model: CaptionModel, temperature: float) -> None:
    torch.manual_seed(0)
    sampled = sample_captions(model, features(2), IDS, 4000, max_tokens=1, temperature=temperature)
    assert sampled.shape == (2, 4000, 2)
    logits = model.decoder.logits(model(features(2), torch.full((2, 1, 1), IDS.bos)))[:, 0, 0]
    logits[:, [IDS.pad, IDS.bos, IDS.unk]] = -torch.inf
    for picture in range(2):
        counted = np.bincount(sampled[picture, :, 1], minlength=9) / 4000
        assert counted == pytest.approx(
            (logits / temperature).softmax(-1)[picture].detach().numpy(), abs=0.03
        )


def test_samples_are_sentences(model: CaptionModel) -> None:
    torch.manual_seed(0)
    sampled = sample_captions(model, features(3), IDS, samples=50, max_tokens=6)
    assert (sampled[:, :, 0] == IDS.bos).all()
    assert sampled.shape[2] <= 7
    for one in sampled.reshape(-1, sampled.shape[2]).tolist():
        length = one.index(IDS.eos) if IDS.eos in one else len(one)
        assert not {IDS.pad, IDS.unk, IDS.bos} & set(one[1:length])
        assert set(one[length + 1 :]) <= {IDS.pad}


def test_the_gradient_is_that_of_the_expected_reward(model: CaptionModel) -> None:
    """With sentences of one word the expectation can be written out, and the estimate must approach it."""
    worth = torch.tensor([0.0, 0, 1, 0, 5, 2, 0, 3, 1])
    weight = model.decoder.output_bias
    picture = features(1)
    logits = model.decoder.logits(model(picture, torch.full((1, 1, 1), IDS.bos)))[0, 0, 0]
    logits = logits.masked_fill(torch.tensor([True, True, False, True] + [False] * 5), -torch.inf)
    (exact,) = torch.autograd.grad(-(logits.softmax(-1) * worth).sum(), weight)
    torch.manual_seed(0)
    sampled = sample_captions(model, picture, IDS, samples=8000, max_tokens=1)
    rewards = worth.numpy()[sampled[:, :, 1]]
    (estimate,) = torch.autograd.grad(self_critical_loss(model, picture, sampled, rewards, IDS), weight)
    assert torch.allclose(estimate, exact, atol=0.03)


def test_training_on_its_own_samples_raises_the_reward(model: CaptionModel) -> None:
    photos = [encoded([1, 4, 5, 2]), encoded([1, 6, 7, 8, 2])]
    reward, rows, seen = CaptionReward(photos, IDS), np.array([0, 1]), features(2)
    optimizer = torch.optim.Adam(model.decoder.parameters(), lr=0.02)
    torch.manual_seed(0)
    means = []
    for _ in range(40):
        sampled = sample_captions(model, seen, IDS, samples=16, max_tokens=5)
        rewards = reward(rows, sampled)
        means.append(float(rewards.mean()))
        optimizer.zero_grad()
        self_critical_loss(model, seen, sampled, rewards, IDS).backward()
        optimizer.step()
    assert np.mean(means[-5:]) > 2 * np.mean(means[:5])


def test_a_recipe_with_a_self_critical_stage_trains(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes")
    table = tiny_recipe(tmp_path)
    table["stages"][0]["passes"] = 2
    table["stages"][1] |= {"frozen_blocks": 2, "passes": 1, "samples": 3}
    train(recipe_from_table(table), tmp_path / "run")
    journal = read_journal(tmp_path / "run" / "metrics.jsonl")
    rewards = [line["reward"] for line in journal if "reward" in line]
    assert len(rewards) == sum("loss" in line and line["stage"] == 1 for line in journal) > 0
    assert all(0 <= reward <= 10 for reward in rewards)


REWARD = Stage("reward", 1, 1e-3, samples=4, label_smoothing=0.1)


def one_step(model: CaptionModel, stage: Stage, seed: int = 5) -> tuple[torch.Tensor, dict[str, float]]:
    """The gradient of the words' embedding after one step on two photos, and what the step says."""
    captions = [encoded([1, 4, 5, 2]), encoded([1, 6, 7, 8, 2])]
    tokens = torch.tensor([[[1, 4, 5, 2, 0]], [[1, 6, 7, 8, 2]]])
    objectives = objectives_of(stage, captions, IDS, max_new_tokens=5)
    torch.manual_seed(seed)
    term = objectives(Seen(model, features(2), np.array([0, 1]), tokens))
    (gradient,) = torch.autograd.grad(term.loss, model.decoder.output_weight)
    return gradient, dict(term.facts)


def test_cross_entropy_is_added_to_the_reward_with_its_weight(model: CaptionModel) -> None:
    """Gradients add up: that of both is the one of the reward plus a tenth of the one of cross-entropy."""
    reward_alone, without = one_step(model, REWARD)
    both, facts = one_step(model, dataclasses.replace(REWARD, cross_entropy=0.1))
    tokens = torch.tensor([[[1, 4, 5, 2, 0]], [[1, 6, 7, 8, 2]]])
    people = caption_loss(model, features(2), tokens, IDS, label_smoothing=0.1)
    (of_people,) = torch.autograd.grad(people, model.decoder.output_weight)
    assert torch.allclose(both, reward_alone + 0.1 * of_people, atol=1e-6)
    assert facts["cross_entropy"] == pytest.approx(float(people.detach()))
    assert facts["reward"] == without["reward"]
    assert "cross_entropy" not in without


def test_repetitions_are_taken_off_the_reward(model: CaptionModel) -> None:
    assert repetitions(["a", "dog", "runs", "on", "grass"]) == 0
    assert repetitions(["a", "dog", "and", "a", "cat"]) == 0, "a word may come again"
    assert repetitions(["a", "dog", "and", "a", "dog"]) == 1
    assert repetitions(["dog", "dog", "dog"]) == 2, "the second and the third"
    photos = [encoded([1, 4, 5, 6, 2]), encoded([1, 7, 8, 4, 2])]
    sampled = np.array([[[1, 4, 5, 6, 2, 0], [1, 4, 5, 4, 5, 2], [1, 4, 4, 6, 2, 0]]])
    plain = CaptionReward(photos, IDS)(np.array([0]), sampled)
    guarded = CaptionReward(photos, IDS, repetition_penalty=0.5)(np.array([0]), sampled)
    assert (plain - guarded)[0].tolist() == pytest.approx([0.0, 0.5, 0.5])


def test_a_recipe_with_cross_entropy_beside_the_reward_trains(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes")
    table = tiny_recipe(tmp_path)
    table["stages"] = [table["stages"][0] | {"passes": 1, "samples": 3}]
    table["stages"][0] |= {"cross_entropy": 0.2, "repetition_penalty": 0.5}
    train(recipe_from_table(table), tmp_path / "run")
    journal = read_journal(tmp_path / "run" / "metrics.jsonl")
    said = [line["cross_entropy"] for line in journal if "cross_entropy" in line]
    assert len(said) == sum("loss" in line for line in journal) > 0
    assert all(value > 0 for value in said)


def test_keys_of_the_reward_are_refused_without_samples() -> None:
    stage = dataclasses.replace(REWARD, samples=0, cross_entropy=0.1, repetition_penalty=1.0)
    assert stage.problems() == [
        "cross_entropy: expected 0 without samples, found 0.1",
        "repetition_penalty: expected 0 without samples, found 1.0",
    ]
    assert any("cross_entropy" in item for item in dataclasses.replace(REWARD, cross_entropy=-1).problems())
