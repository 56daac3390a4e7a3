"""Scores and tokens against pycocoevalcap and the Stanford tokenizer that it carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kiloword.train.datasets import load_records
from kiloword.train.metrics import CiderScorer, corpus_bleu, corpus_rouge_l, score
from kiloword.train.metrics.ptb import choose_tokenizer, find_reference_jar, tokenize, tokenize_many
from kiloword.train.metrics.rouge import rouge_l

pytestmark = pytest.mark.parity

pytest.importorskip("pycocoevalcap", reason="the reference is in the extra [train]")
needs_java = pytest.mark.skipif(
    find_reference_jar() is None or choose_tokenizer() != "java", reason="no Java runtime here"
)

Captions = list[list[str]]


def random_corpus(seed: int) -> tuple[list[Captions], Captions]:
    """40 photos with 1 to 5 references of 1 to 14 words of a small vocabulary, so that much is repeated."""
    random = np.random.default_rng(seed)
    words = [f"w{number}" for number in range(12)]

    def caption() -> list[str]:
        return random.choice(words, random.integers(1, 15)).tolist()  # type: ignore[no-any-return]

    references = [[caption() for _ in range(random.integers(1, 6))] for _ in range(40)]
    return references, [caption() for _ in references]


def as_their_input(
    references: list[Captions], candidates: Captions
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    theirs = {index: [" ".join(caption) for caption in photo] for index, photo in enumerate(references)}
    return theirs, {index: [" ".join(caption)] for index, caption in enumerate(candidates)}


@pytest.mark.parametrize("seed", range(5))
def test_bleu_equals_the_reference(seed: int) -> None:
    from pycocoevalcap.bleu.bleu import Bleu

    references, candidates = random_corpus(seed)
    expected, _ = Bleu(4).compute_score(*as_their_input(references, candidates), verbose=0)
    assert corpus_bleu(references, candidates) == pytest.approx(expected, abs=1e-6)


def test_bleu_without_any_match_equals_the_reference() -> None:
    """Where nothing matches, the value is decided by small constants, and is not zero."""
    from pycocoevalcap.bleu.bleu import Bleu

    references, candidates = [[["a", "b", "c", "d", "e"]]], [["v", "a", "x", "y", "z"]]
    expected, _ = Bleu(4).compute_score(*as_their_input(references, candidates), verbose=0)
    assert corpus_bleu(references, candidates) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_rouge_l_equals_the_reference(seed: int) -> None:
    from pycocoevalcap.rouge.rouge import Rouge

    references, candidates = random_corpus(seed)
    mean, each = Rouge().compute_score(*as_their_input(references, candidates))
    assert corpus_rouge_l(references, candidates) == pytest.approx(mean, abs=1e-6)
    ours = [rouge_l(photo, candidate) for photo, candidate in zip(references, candidates, strict=True)]
    np.testing.assert_allclose(ours, each, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_cider_d_equals_the_reference(seed: int) -> None:
    from pycocoevalcap.cider.cider import Cider

    references, candidates = random_corpus(seed)
    candidates[0] = []
    mean, each = Cider().compute_score(*as_their_input(references, candidates))
    ours = CiderScorer(references).scores(candidates)
    np.testing.assert_allclose(ours, each, atol=1e-6)
    assert ours.mean() == pytest.approx(mean, abs=1e-6)


@pytest.mark.realdata
@pytest.mark.slow
def test_scores_of_real_captions_equal_the_reference(data: Path) -> None:
    """Each Flickr8k test photo's first caption scored against the other four."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    records = load_records(data / "flickr8k", "test").records
    ours = score(
        {record.image_id: record.captions[1:] for record in records},
        {record.image_id: record.captions[0] for record in records},
        "own",
    )
    references = [[list(tokenize(caption)) for caption in record.captions[1:]] for record in records]
    candidates = [list(tokenize(record.captions[0])) for record in records]
    inputs = as_their_input(references, candidates)
    bleu, _ = Bleu(4).compute_score(*inputs, verbose=0)
    expected = [*bleu, Rouge().compute_score(*inputs)[0], Cider().compute_score(*inputs)[0]]
    values = [ours.bleu_1, ours.bleu_2, ours.bleu_3, ours.bleu_4, ours.rouge_l, ours.cider]
    np.testing.assert_allclose(values, 100 * np.array(expected), atol=1e-4)


TRICKY = (
    "A man's dog doesn't like the '80s rock'n'roll at 5:30pm, does it?",
    "Two T.V. sets (one broken) of Mr. J. Smith, No. 5 St. John's Ave.",
    'The sign says "CANNOT -- STOP" ... or else!! cannot gonna',
    "red-and-white t-shirts & AT&T, 50% off: $3.50 each; and/or 1 1/2 hot dogs",
    "un caf\u00e9 na\u00efve \u2018quoted\u2019 \u2014 dash",
    "",
    "line\u2028separator and a road.;",
)


@needs_java
def test_tricky_captions_become_the_references_tokens() -> None:
    assert tokenize_many(TRICKY, "own") == tokenize_many(TRICKY, "java")


@needs_java
def test_score_with_java_says_so_and_agrees() -> None:
    captions = {str(index): text for index, text in enumerate(TRICKY) if text}
    references = {key: [text, "a dog"] for key, text in captions.items()}
    java, own = score(references, captions), score(references, captions, "own")
    assert (java.tokenizer, own.tokenizer) == ("java", "own")
    assert java.cider == pytest.approx(own.cider)


@needs_java
@pytest.mark.realdata
@pytest.mark.slow
def test_own_tokenizer_agrees_with_the_reference_on_nearly_all_real_captions(data: Path) -> None:
    """163,823 captions, of which one differs when measured; the promise is 99.9 %, the bound 99.99 %."""
    folders = (data / "flickr8k", data / "coco" / "captions_dev.json", data / "coco" / "captions_train.json")
    records = [record for folder in folders for record in load_records(folder, None).records]
    captions = [caption for record in records for caption in record.captions]
    captions += (data / "coco" / "captions_text.txt").read_text(encoding="utf-8").split("\n")
    pairs = zip(tokenize_many(captions, "own"), tokenize_many(captions, "java"), strict=True)
    different = sum(own != reference for own, reference in pairs)
    assert different <= 1e-4 * len(captions)
