"""The joint space of pictures and sentences: its loss against a plain loop, its retrieval, its training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from kiloword.runtime.errors import ConfigError
from kiloword.train.captions import TokenIds
from kiloword.train.checkpoint import build_model, load_checkpoint
from kiloword.train.contrastive import info_nce, no_counterexamples, recall, sentence_vectors
from kiloword.train.journal import read_journal
from kiloword.train.loop import train
from kiloword.train.models.registry import DECODERS
from kiloword.train.recipe_file import recipe_from_table
from tests.shapes import make_shapes, tiny_recipe

IDS = TokenIds(pad=0, bos=1, eos=2, unk=3)


def vectors(count: int, seed: int) -> torch.Tensor:
    made = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return made / made.norm(dim=1, keepdim=True)


def plain_info_nce(images: Any, texts: Any, temperature: float, ignored: Any) -> float:
    """Both directions as loops over pairs, in Python's own floats."""
    count, losses = len(images), []
    scores = [
        [sum(a * b for a, b in zip(x, y, strict=True)) / temperature for y in texts.tolist()]
        for x in images.tolist()
    ]
    for own in range(count):
        row = [math.exp(scores[own][other]) for other in range(count) if not ignored[own][other]]
        column = [math.exp(scores[other][own]) for other in range(count) if not ignored[other][own]]
        losses += [-math.log(math.exp(scores[own][own]) / sum(part)) for part in (row, column)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("with_ignored", [False, True])
def test_info_nce_against_loops_over_pairs(with_ignored: bool) -> None:
    images, texts, temperature = vectors(5, 1), vectors(5, 2), torch.tensor(0.3)
    ignored = torch.zeros(5, 5, dtype=torch.bool)
    if with_ignored:
        ignored[0, 3] = ignored[3, 0] = ignored[2, 4] = True
    found = info_nce(images, texts, temperature, ignored if with_ignored else None)
    assert found.item() == pytest.approx(plain_info_nce(images, texts, 0.3, ignored.tolist()), rel=1e-5)


def test_a_guess_costs_the_logarithm_of_the_batch() -> None:
    same = vectors(1, 1).expand(7, -1)
    assert info_nce(same, same, torch.tensor(0.1)).item() == pytest.approx(math.log(7), rel=1e-5)


def test_the_same_photo_and_the_same_sentence_are_no_counterexamples() -> None:
    tokens = torch.tensor([[1, 5, 2], [1, 6, 2], [1, 5, 2], [1, 7, 2]])
    found = no_counterexamples(np.array([4, 8, 5, 8]), tokens)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = expected[1, 3] = expected[3, 1] = True
    assert torch.equal(found, expected)


def test_recall_counts_ranks() -> None:
    """Two pictures with two sentences each; the second picture's first sentence lies nearer to the first."""
    images = np.eye(2, 3, dtype=np.float32)
    texts = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.9, 0.1, 0], [0.2, 0.9, 0]], np.float32)
    found = recall(images, texts, [0, 0, 1, 1])
    assert (found["text@1"], found["text@5"]) == (100.0, 100.0)
    assert (found["image@1"], found["image@5"]) == (75.0, 100.0)


def test_a_space_of_one_point_finds_nothing() -> None:
    images, texts = np.ones((30, 4), np.float32), np.ones((30, 4), np.float32)
    assert set(recall(images, texts, range(30)).values()) == {0.0}


def contrastive_recipe(root: Path) -> dict[str, Any]:
    """The second stage alone, for long enough to learn four colours and three shapes by heart."""
    table = tiny_recipe(root)
    del table["stages"][0]
    table["stages"][0] |= {"passes": 12, "learning_rate": 5e-3, "contrastive": 0.5}
    table["validation"] = {"every_passes": 12}
    return table


@pytest.mark.parametrize("decoder", DECODERS)
def test_sentences_are_read_to_their_end_and_without_a_picture(decoder: str) -> None:
    """Padding changes nothing, nor does what looks at the picture; the last word does."""
    table = contrastive_recipe(Path())
    if decoder != "transformer":
        table["decoder"] = {"kind": decoder, "width": 16}
    torch.manual_seed(2)
    model = build_model(recipe_from_table(table), 12).eval()
    short = sentence_vectors(model, torch.tensor([[1, 5, 6, 2]]), IDS)
    padded = sentence_vectors(model, torch.tensor([[1, 5, 6, 2, 0, 0], [1, 4, 4, 4, 4, 2]]), IDS)
    assert torch.allclose(short[0], padded[0], atol=1e-6)
    assert padded.norm(dim=1).tolist() == pytest.approx([1.0, 1.0])
    other = sentence_vectors(model, torch.tensor([[1, 5, 7, 2]]), IDS)
    assert not torch.allclose(short, other, atol=1e-3)
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            if model.decoder.looks(name):
                parameter.add_(1.0)
    assert torch.equal(sentence_vectors(model, torch.tensor([[1, 5, 6, 2]]), IDS), short)


def test_both_losses_fall_and_retrieval_is_reported(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes")
    train(recipe_from_table(contrastive_recipe(tmp_path)), tmp_path / "run")
    journal = read_journal(tmp_path / "run" / "metrics.jsonl")
    apart = [line["contrastive"] for line in journal if "contrastive" in line]
    whole = [line["loss"] for line in journal if "loss" in line]
    # Eight pictures in a batch, of which those with the same caption do not count.
    assert apart[0] == pytest.approx(math.log(8), rel=0.25)
    assert np.mean(apart[-5:]) < 0.8 * apart[0]
    assert np.mean(whole[-5:]) < 0.7 * whole[0]
    (judged,) = [line for line in journal if "cider" in line]
    assert set(judged["retrieval shapes"]) == {
        f"{kind}@{n}" for kind in ("text", "image") for n in (1, 5, 10)
    }
    best = load_checkpoint(tmp_path / "run" / "best")
    assert best.model.joint is not None
    assert 0.01 <= best.model.joint.temperature.item() < 1


def test_a_recipe_without_it_has_no_joint_space(tmp_path: Path) -> None:
    table = contrastive_recipe(tmp_path)
    table["stages"][0]["contrastive"] = 0.0
    assert build_model(recipe_from_table(table), 12).joint is None
    table["stages"][0]["contrastive"] = -1.0
    with pytest.raises(ConfigError, match="contrastive: expected 0 or more"):
        recipe_from_table(table)
