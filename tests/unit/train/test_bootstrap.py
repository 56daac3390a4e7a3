"""Bootstrap over photos, against scoring every resample's texts again."""

from __future__ import annotations

import numpy as np
import pytest

from kiloword.runtime.errors import ConfigError
from kiloword.train.metrics.bleu import corpus_bleu
from kiloword.train.metrics.bootstrap import (
    METRICS,
    compare_tables,
    intervals,
    metric_values,
    photo_table,
)
from kiloword.train.metrics.rouge import corpus_rouge_l
from kiloword.train.metrics.scores import TokenizedCaptions, score_tokens

WORDS = ("a", "the", "dog", "cat", "man", "runs", "sits", "on", "in", "red", "big", "grass", "street")


def random_captions(photos: int, seed: int, likeness: float = 0.5) -> TokenizedCaptions:
    """Captions that copy ``likeness`` of a reference's words and guess the others."""
    references_random, random = np.random.default_rng(7), np.random.default_rng(seed)
    references, candidates = [], []
    for _ in range(photos):
        photo = tuple(
            tuple(references_random.choice(WORDS, int(references_random.integers(4, 12)))) for _ in range(5)
        )
        copied = [word if random.random() < likeness else str(random.choice(WORDS)) for word in photo[0]]
        references.append(photo)
        candidates.append(tuple(copied[: int(random.integers(3, 13))]))
    return TokenizedCaptions(tuple(references), tuple(candidates), "own")


def brute_force(captions: TokenizedCaptions, chosen: np.ndarray) -> list[float]:
    """BLEU and ROUGE-L of the texts of the drawn photos, by the scores that are checked elsewhere."""
    references = [captions.references[photo] for photo in chosen]
    candidates = [captions.candidates[photo] for photo in chosen]
    return [
        100 * value
        for value in (*corpus_bleu(references, candidates), corpus_rouge_l(references, candidates))
    ]


def test_the_whole_table_gives_the_scores() -> None:
    captions = random_captions(40, seed=1)
    scores = score_tokens(captions)
    values = metric_values(photo_table(captions).sum(axis=0), 40)
    assert values == pytest.approx([getattr(scores, metric) for metric in METRICS], rel=1e-9)


def test_intervals_equal_scoring_each_resample_anew() -> None:
    """The same draws, scored from their texts; CIDEr-D is the mean of the drawn photos' own."""
    captions = random_captions(30, seed=2)
    ciders = np.array(score_tokens(captions).cider_per_image)
    random = np.random.default_rng(5)
    draws = [random.integers(30, size=30) for _ in range(60)]
    values = np.array([[*brute_force(captions, chosen), ciders[chosen].mean()] for chosen in draws])
    found = intervals(photo_table(captions), resamples=60, seed=5)
    for column, metric in enumerate(METRICS):
        expected = np.quantile(values[:, column], (0.025, 0.975))
        assert (found[metric].low, found[metric].high) == pytest.approx(tuple(expected), rel=1e-9), metric


def test_an_interval_covers_what_the_formula_for_a_mean_says() -> None:
    """CIDEr-D is a mean, whose standard error is known: 1.96 of them on each side, within a tenth."""
    captions = random_captions(400, seed=3)
    table = photo_table(captions)
    found = intervals(table, resamples=2000)["cider"]
    error = table[:, -1].std() / np.sqrt(400)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_the_same_seed_gives_the_same_interval() -> None:
    table = photo_table(random_captions(20, seed=4))
    assert intervals(table, seed=3) == intervals(table, seed=3)
    assert intervals(table, seed=3) != intervals(table, seed=4)


def test_better_captions_are_found_better() -> None:
    worse, better = (photo_table(random_captions(150, seed=6, likeness=share)) for share in (0.3, 0.8))
    differences = {one.metric: one for one in compare_tables(worse, better)}
    for one in differences.values():
        assert one.difference == pytest.approx(one.second - one.first)
        assert one.significant
        assert one.interval.low > 0
    back = {one.metric: one for one in compare_tables(better, worse)}
    assert back["cider"].difference == pytest.approx(-differences["cider"].difference)
    assert back["cider"].p_value == pytest.approx(0.001)


def test_captions_that_are_the_same_do_not_differ() -> None:
    table = photo_table(random_captions(50, seed=8))
    for one in compare_tables(table, table):
        assert (one.difference, one.margin, one.p_value, one.significant) == (0, 0, 1, False)


def test_pairing_makes_the_interval_narrow() -> None:
    """Two captioners that differ on one photo in twenty differ by less than their own intervals are wide."""
    captions = random_captions(200, seed=9)
    candidates = tuple(
        ("a", "dog") if photo % 20 == 0 else candidate for photo, candidate in enumerate(captions.candidates)
    )
    first = photo_table(captions)
    second = photo_table(TokenizedCaptions(captions.references, candidates, "own"))
    paired = next(one for one in compare_tables(first, second) if one.metric == "cider")
    alone = intervals(first)["cider"]
    assert paired.margin < (alone.high - alone.low) / 3


def test_tables_of_different_photos_are_refused() -> None:
    tables = [photo_table(random_captions(photos, seed=1)) for photos in (4, 5)]
    with pytest.raises(ConfigError, match="4 and 5"):
        compare_tables(*tables)
