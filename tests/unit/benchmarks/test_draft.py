"""The benchmark of drafts: what it says of a bundle whose guesses are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import draft
from benchmarks.imported_worker import share_of_right_guesses
from kiloword.runtime.draft import Drafter, DraftTable
from kiloword.runtime.draft_spec import DraftSpec
from kiloword.runtime.generation import generate
from kiloword.runtime.sessions import load_sessions
from tests.bundles import make_tiny_bundle


def test_a_table_that_knows_the_caption(tmp_path: Path) -> None:
    """One step for each six tokens where the only photo's caption was counted; the same caption."""
    bundle = make_tiny_bundle(tmp_path)
    sessions, tokens = load_sessions(bundle, "cpu", 1), bundle.manifest.tokens
    pixels = np.random.default_rng(3).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    encoded = sessions.encoder.encode(pixels[None])
    (caption,) = generate(sessions.decoder, encoded, tokens, bundle.manifest.generation)
    known = [*tokens.prompt_token_ids, *caption.token_ids]
    with (tmp_path / "draft.npy").open("wb") as file:
        DraftTable.counted([known, known], len(known)).save(file)
    drafter = Drafter(sessions.decoder, tmp_path, DraftSpec("draft.npy"), tokens)
    row = draft.caption_row(replace(sessions, drafter=drafter), bundle, [pixels], rounds=3)
    assert row["tokens"] == row["without_steps"] == len(caption.token_ids)
    assert row["draft_steps"] == -(-len(caption.token_ids) // 6)
    assert row["same_captions"] == 1
    assert row["largest_logprob_difference"] < 1e-4


def test_calls_that_read_several_tokens(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path)
    rows = draft.read_rows(load_sessions(bundle, "cpu", 1), bundle, rounds=2)
    assert [row["tokens"] for row in rows] == list(draft.READ)
    assert rows[0]["times_one"] == 1


@pytest.mark.parametrize(("wanted", "most"), [(2.28, 5), (1.0, 5), (6.0, 5), (1.3, 1)])
def test_the_share_of_right_guesses(wanted: float, most: int) -> None:
    """So many tokens a step come out of it, drawn by lot (expected: the mean of a hundred thousand steps)."""
    share = share_of_right_guesses(wanted, most)
    right = np.random.default_rng(1).random((100_000, most)) < share
    found = 1 + np.cumprod(right, axis=1).sum(axis=1).mean()
    assert found == pytest.approx(wanted, abs=0.02)
