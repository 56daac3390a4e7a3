"""BLEU, ROUGE-L and CIDEr-D against the papers' own examples and small cases worked out by hand."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from kiloword.runtime.errors import ConfigError
from kiloword.train.metrics import CiderScorer, corpus_bleu, corpus_cider, corpus_rouge_l, score
from kiloword.train.metrics.bleu import count_bleu
from kiloword.train.metrics.rouge import rouge_l


def split(*captions: str) -> list[list[str]]:
    return [caption.split() for caption in captions]


def test_bleu_of_the_papers_example_counts_a_word_as_often_as_one_reference_does() -> None:
    """Papineni et al., section 2.1.1: modified unigram precision 2/7; lengths are equal, so no penalty."""
    references = split("the cat is on the mat", "there is a cat on the mat")
    counts = count_bleu(references, ["the"] * 7)
    assert (counts.matches[0], counts.guesses[0], counts.reference_length) == (2, 7, 7)
    assert corpus_bleu([references], [["the"] * 7])[0] == pytest.approx(2 / 7)


def test_bleu_by_hand_with_a_brevity_penalty() -> None:
    """3 of 4 words and 1 of 3 pairs match; 4 words against 6: penalty exp(1 - 6/4)."""
    bleu = corpus_bleu([split("the cat sat on the mat")], split("the cat the cat"))
    penalty = math.exp(-0.5)
    assert bleu[:2] == pytest.approx((0.75 * penalty, math.sqrt(0.75 / 3) * penalty))


@pytest.mark.parametrize(("length", "closest"), [(4, 3), (5, 6), (1, 3), (9, 6)])
def test_bleu_takes_the_closest_reference_length_and_the_shorter_of_two(length: int, closest: int) -> None:
    """References of 3 and 6 words; 4 is nearer to 3, 5 to 6."""
    assert count_bleu([["x"] * 6, ["x"] * 3], ["y"] * length).reference_length == closest
    assert count_bleu([["x"] * 7, ["x"] * 3], ["y"] * 5).reference_length == 3


def test_bleu_adds_up_photos_before_it_divides() -> None:
    """(1 + 3) of (2 + 3) words; the mean of the photos' own values would be 0.75."""
    assert corpus_bleu([split("a b"), split("c d e")], split("a x", "c d e"), max_n=1) == pytest.approx(
        (0.8,)
    )


def test_empty_caption_scores_nothing() -> None:
    assert corpus_bleu([split("a b")], [[]]) == pytest.approx((0.0, 0.0, 0.0, 0.0))
    assert rouge_l(split("a b"), []) == 0.0
    assert corpus_cider([split("a b"), split("c d")], [[], []]) == 0.0


@pytest.mark.parametrize(
    ("candidate", "expected"), [("police kill the gunman", 0.75), ("the gunman kill police", 0.5)]
)
def test_rouge_l_of_the_papers_example(candidate: str, expected: float) -> None:
    """Lin, section 3.1: precision equals recall there, so the value holds for every beta."""
    assert rouge_l(split("police killed the gunman"), candidate.split()) == pytest.approx(expected)


def test_rouge_l_takes_precision_and_recall_from_different_references() -> None:
    """Caption `a b`: recall 1 from `a`, precision 1 from `a x b y`: F = 1 although no reference gives it."""
    assert rouge_l(split("a", "a x b y"), ["a", "b"]) == pytest.approx(1.0)


def test_rouge_l_weighs_recall_more() -> None:
    """P = 1, R = 1/2 and beta = 1.2: (1 + 1.44) * 0.5 / (0.5 + 1.44)."""
    assert corpus_rouge_l([split("a b")], [["a"]]) == pytest.approx(2.44 * 0.5 / 1.94)


REFERENCES = [split("a b"), split("a c")]


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        # `a` is in both photos: weight 0. Words and pairs agree fully, triples and quadruples do not exist.
        ("a b", 10 * 2 / 4),
        # Words agree, no pair; one pair fewer than the reference: Gaussian of 1 with sigma 6.
        ("b", 10 * 1 / 4 * math.exp(-1 / 72)),
        # Four times the word counts once: cosine 1/4; two pairs more.
        ("b b b b", 10 * 0.25 / 4 * math.exp(-4 / 72)),
        ("a", 0.0),
    ],
)
def test_cider_d_by_hand(candidate: str, expected: float) -> None:
    assert CiderScorer(REFERENCES).score(0, candidate.split()) == pytest.approx(expected)


def test_cider_d_is_the_mean_over_references_and_photos() -> None:
    """Photo 0 has a second reference without any common n-gram: half of 5; photo 1 is perfect: 5."""
    references = [split("a b", "z z"), split("a c")]
    assert corpus_cider(references, split("a b", "a c")) == pytest.approx((2.5 + 5.0) / 2)


def test_cider_scores_several_captions_of_one_photo() -> None:
    scorer = CiderScorer(REFERENCES)
    samples = split("a b", "a c", "a b")
    expected = [scorer.score(photo, sample) for photo, sample in zip((0, 1, 1), samples, strict=True)]
    np.testing.assert_array_equal(scorer.scores(samples, [0, 1, 1]), expected)


def test_a_caption_too_many_is_an_error() -> None:
    with pytest.raises(ValueError, match="longer"):
        CiderScorer(REFERENCES).scores(split("a", "b", "c"))


@pytest.mark.slow
def test_cider_of_a_thousand_photos_takes_less_than_a_second() -> None:
    """What scoring samples during training needs; measured 0.13 s, and 0.5 s once for the references."""
    random = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(2000)])
    references = [random.choice(words, (5, 11)).tolist() for _ in range(1000)]
    scorer = CiderScorer(references)
    start = time.perf_counter()
    scorer.scores([photo[0] for photo in references])
    assert time.perf_counter() - start < 1.0


def test_score_is_times_100_and_says_what_it_counted_with() -> None:
    """A caption equal to its only reference: BLEU and ROUGE-L 100; CIDEr-D 10, times 100."""
    captions = {"1": "A man rides a horse.", "2": "Two dogs play in the snow!"}
    scores = score({key: [text] for key, text in captions.items()}, captions, "own")
    assert (scores.tokenizer, scores.num_images) == ("own", 2)
    perfect = (scores.bleu_1, scores.bleu_4, scores.rouge_l, scores.cider)
    assert perfect == pytest.approx((100, 100, 100, 1000))
    assert scores.cider_per_image == pytest.approx((1000, 1000))


def test_score_matches_captions_to_references_by_id_not_by_order() -> None:
    references = {"1": ["a b c d"], "2": ["e f g h"]}
    assert score(references, {"2": "e f g h", "1": "a b c d"}, "own").cider == pytest.approx(1000)


@pytest.mark.parametrize(
    ("references", "candidates", "message"),
    [
        ({}, {}, "there is no caption to score"),
        ({"1": ["x"]}, {}, "photo '1' has references and no caption"),
        ({"1": ["x"]}, {"1": "x", "2": "y"}, "photo '2' has no reference"),
        ({"1": []}, {"1": "x"}, "photo '1' has no reference"),
    ],
)
def test_score_refuses_what_does_not_fit_together(
    references: dict[str, list[str]], candidates: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        score(references, candidates)
