"""Forced tokens, shortest captions and the three ways to end a beam search, on scores written by hand.

`tests/parity/test_import.py` compares the same settings with transformers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from kiloword.runtime.generation import generate
from kiloword.runtime.hypotheses import Generated
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import GenerationSettings, ImageSpec, TokenSpec

PAD, BOS, EOS, A, B = range(5)


class Written:
    """A decoder whose next token depends on the last one alone: rows of probabilities."""

    token_by_token = False
    NEXT = np.log(
        np.array(
            [
                [0.01, 0.01, 0.01, 0.01, 0.96],  # after <pad>
                [0.01, 0.01, 0.50, 0.40, 0.08],  # after <bos>: the end is likeliest
                [0.20, 0.20, 0.20, 0.20, 0.20],
                [0.01, 0.01, 0.58, 0.30, 0.10],  # after a
                [0.01, 0.01, 0.08, 0.80, 0.10],  # after b
            ],
            dtype=np.float32,
        )
    )

    def context(self, encoded: Any) -> Any:
        return {}

    def initial_state(self, encoded: Any, batch_size: int) -> Any:
        return {}

    def step(self, input_ids: Any, beam_rows: Any, context: Any, state: Any) -> Any:
        return self.NEXT[input_ids[:, :, -1]].copy(), {}


def write(tokens: dict[str, Any] | None = None, **settings: Any) -> Generated:
    spec = TokenSpec(5, BOS, EOS, PAD, (BOS,), **(tokens or {}))
    search = GenerationSettings(**{"num_beams": 1, "max_new_tokens": 4, **settings})
    return generate(Written(), {"pixels": np.zeros(1)}, spec, search)[0]


def test_defaults_end_at_once() -> None:
    assert write().token_ids == (EOS,)


def test_a_forced_first_token_costs_nothing() -> None:
    """It is no choice: its log-probability is 0, and so the score is that of the rest."""
    found = write({"forced_first_token_id": B})
    assert found.token_ids == (B, A, EOS)
    assert found.token_logprobs == pytest.approx((0.0, np.log(0.8), np.log(0.58)), abs=1e-6)
    beams = write({"forced_first_token_id": B}, num_beams=2)
    assert beams.token_ids[0] == B


def test_a_forced_last_token_stands_at_the_greatest_length() -> None:
    assert write({"forced_last_token_id": A}, min_new_tokens=4).token_ids == (A, A, A, A)
    assert write({"forced_last_token_id": B}, min_new_tokens=4).token_ids == (A, A, A, B)
    assert write({"forced_last_token_id": EOS}, min_new_tokens=4).token_ids[-1] == EOS


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("shortest", [1, 2, 3])
def test_no_end_before_the_shortest_length(shortest: int, num_beams: int) -> None:
    """As many tokens stand before the end as were asked for."""
    found = write(min_new_tokens=shortest, num_beams=num_beams)
    assert EOS not in found.token_ids[:shortest]
    assert len(found.token_ids) > shortest


def test_the_three_ways_to_end() -> None:
    """With scores divided by the squared length, longer ones win; only `never` waits for them."""
    long = {"num_beams": 2, "max_new_tokens": 8, "length_penalty": 2.0}
    early = write(early_stopping=True, **long)
    never = write(early_stopping="never", **long)
    assert len(never.token_ids) > len(early.token_ids)
    assert never.score > early.score
    usual = write(early_stopping=False, **long)
    assert early.score <= usual.score <= never.score


def test_stretched_and_cut() -> None:
    """DeiT's way: Pillow's own stretch to 40 x 36, and the middle of it."""
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    spec = ImageSpec(32, 30, "stretch_center_crop", resample="hamming", stretch_height=40, stretch_width=36)
    expected = np.asarray(picture.resize((36, 40), Image.Resampling.HAMMING))[4:36, 3:33]
    np.testing.assert_array_equal(load_image(picture, spec), expected)
