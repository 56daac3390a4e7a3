"""Batches are a pure function of seed and step, see every photo, and never mirror a left or a right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from kiloword.train.batches import BatchPlan
from kiloword.train.captions import (
    EncodedCaptions,
    TokenIds,
    encode_captions,
    pad_captions,
    sample_captions,
)
from kiloword.train.datasets import CaptionRecord
from kiloword.train.recipe import Stage
from kiloword.train.tokenizers import train_word_tokenizer

SIDED = ["a dog on the left", "Left of a cat", "a right-handed man", "the rightmost car", "turning leftward"]
PLAIN = ["a bright leftover light", "an upright man", "a dog"]
STAGE = Stage("one", passes=3, learning_rate=1.0, batch_size=4, captions_per_image=2)


def records_of(*captions: list[str]) -> list[CaptionRecord]:
    return [CaptionRecord(Path(f"{i}.jpg"), tuple(texts), f"{i}") for i, texts in enumerate(captions)]


def encoded(*captions: list[str], max_tokens: int = 20) -> list[EncodedCaptions]:
    tokenizer = train_word_tokenizer(
        [text for texts in captions for text in texts], min_count=1, vocab_size=99
    )
    return encode_captions(records_of(*captions), tokenizer, max_tokens)


@pytest.fixture(scope="module")
def plan() -> BatchPlan:
    """Ten photos, the last of them twice a pass; photo 1 has only captions with a side, photo 2 has both."""
    captions = encoded(PLAIN, SIDED, [SIDED[0], PLAIN[2]], *[[f"photo {i}", "a cat"] for i in range(7)])
    return BatchPlan(STAGE, (5, 0), np.array([*range(10), 9]), captions, views=4, pad=0)


def test_each_pass_shows_each_photo_as_often_as_it_stands_there(plan: BatchPlan) -> None:
    assert (plan.steps_per_pass, plan.steps) == (3, 9)
    orders = []
    for number in range(3):
        rows = np.concatenate([plan.batch(3 * number + place).rows for place in range(3)])
        assert sorted(rows) == [*range(10), 9]
        orders.append(rows.tolist())
    assert orders[0] != orders[1] != orders[2]


def test_a_batch_depends_on_seed_stage_and_step_alone(plan: BatchPlan) -> None:
    """Asked in any order, by another object: the same. Another seed or stage: another."""
    again = replace(plan)
    for step in (8, 0, 4):
        one, two = plan.batch(step), again.batch(step)
        assert np.array_equal(one.rows, two.rows)
        assert np.array_equal(one.views, two.views)
        assert np.array_equal(one.token_ids, two.token_ids)
    for seed in ((6, 0), (5, 1)):
        other = replace(plan, seed=seed)
        assert any(not np.array_equal(plan.batch(k).rows, other.batch(k).rows) for k in range(3))


def test_a_caption_with_left_or_right_is_never_shown_with_a_mirrored_photo(plan: BatchPlan) -> None:
    sided = {1: {tuple(ids) for ids in plan.captions[1].all}, 2: {tuple(plan.captions[2].all[0])}}
    mirrored = 0
    for seed in range(40):
        for step in range(plan.steps):
            batch = replace(plan, seed=(seed, 0)).batch(step)
            for row, view, captions in zip(batch.rows, batch.views, batch.token_ids, strict=True):
                if view % 2 == 1:
                    mirrored += 1
                    shown = {tuple(ids[ids != 0]) for ids in captions}
                    assert not shown & sided.get(int(row), set())
    assert mirrored > 100


def test_all_views_are_seen(plan: BatchPlan) -> None:
    seen = {int(view) for step in range(plan.steps) for view in plan.batch(step).views}
    assert seen == {0, 1, 2, 3}


def test_sides_are_words_of_their_own() -> None:
    """`bright`, `leftover` and `upright` have no side."""
    first, second = encoded(PLAIN, SIDED)
    assert len(first.without_sides) == len(PLAIN)
    assert second.without_sides == ()


def test_long_captions_are_cut() -> None:
    (captions,) = encoded(["one two three four", "one"], max_tokens=4)
    assert [len(ids) for ids in captions.all] == [4, 3]
    assert captions.all[0][0] == 1
    assert 2 not in captions.all[0]
    assert captions.all[1][-1] == 2


def test_each_caption_is_used_once_before_any_is_used_again() -> None:
    (captions,) = encoded(["one", "two", "three"])
    random = np.random.default_rng(0)
    for _ in range(20):
        picked = [int(ids[1]) for ids in sample_captions(captions, 5, False, random)]
        assert len(set(picked[:3])) == 3
        assert len(set(picked)) == 3
        assert len(picked) == 5


def test_padding_fills_up_to_the_longest() -> None:
    padded = pad_captions([[np.array([1, 2]), np.array([1])], [np.array([1, 5, 2]), np.array([2])]], pad=9)
    assert padded.tolist() == [[[1, 2, 9], [1, 9, 9]], [[1, 5, 2], [2, 9, 9]]]


def test_special_ids_are_those_of_the_tokenizer() -> None:
    tokenizer = train_word_tokenizer(["a dog"], min_count=1, vocab_size=9)
    assert TokenIds.of(tokenizer) == TokenIds(pad=0, bos=1, eos=2, unk=3)
