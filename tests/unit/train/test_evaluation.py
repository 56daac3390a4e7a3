"""Evaluation of a bundle: with a captioner that says what the test tells it, and with a real tiny bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kiloword.runtime.bundle import Bundle
from kiloword.runtime.captioner import Caption, Captioner, CaptionFailure
from kiloword.runtime.errors import ConfigError, ImageError, KilowordError
from kiloword.train.datasets import CaptionRecord
from kiloword.train.evaluation import evaluate
from kiloword.train.metrics import score
from tests.bundles import VOCABULARY, make_tiny_bundle

EOS, UNKNOWN = VOCABULARY.index("<eos>"), VOCABULARY.index("<unk>")


class Parrot(Captioner):
    """Says the given texts in turn; None is a photo that cannot be read."""

    def __init__(self, bundle: Bundle, said: list[tuple[str, tuple[int, ...]] | None]) -> None:
        self._bundle = bundle
        self._provider = "cpu"
        self._said = said
        self.asked: dict[str, Any] = {}

    def caption_many(self, images: Iterable[Any], **settings: Any) -> Iterator[Any]:
        self.asked = settings
        for image, said in zip(images, self._said, strict=True):
            if said is None:
                yield CaptionFailure(ImageError("cannot be read", path=image))
            else:
                yield Caption(said[0], 0.5, said[1], (-0.5,) * len(said[1]), 4.0, "tiny")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_tiny_bundle(tmp_path / "tiny", num_beams=2)


def record(name: str, *captions: str) -> CaptionRecord:
    return CaptionRecord(Path("photos") / name, captions, name)


RECORDS = [
    record("1.jpg", "a dog runs", "the dog"),
    record("2.jpg", "a broken photo"),
    record("3.jpg", "a red cat sits", "cat on a beach"),
    record("4.jpg", "two men"),
]
SAID = [
    ("a dog runs", (4, 6, EOS)),
    None,
    ("a cat a cat", (4, 7, 4, 7)),
    ("a dog runs", (4, UNKNOWN, EOS)),
]


def test_report_scores_what_was_said_and_leaves_failures_out(bundle: Bundle) -> None:
    """Expected: what `score`, held to the reference by parity tests, says of the three captioned photos."""
    report = evaluate(Parrot(bundle, list(SAID)), RECORDS, tokenizer="own")
    kept = [(known, said[0]) for known, said in zip(RECORDS, SAID, strict=True) if said is not None]
    expected = score(
        {known.image_id: known.captions for known, _ in kept},
        {known.image_id: text for known, text in kept},
        "own",
    )
    assert report.scores == expected
    assert [row.cider for row in report.photos] == list(expected.cider_per_image)
    assert [row.path for row in report.photos] == [str(Path("photos") / f"{n}.jpg") for n in (1, 3, 4)]
    assert report.photos[1].references == ("a red cat sits", "cat on a beach")
    failed = report.failures[0]
    assert (len(report.failures), failed.path) == (1, str(Path("photos") / "2.jpg"))
    assert "cannot be read" in failed.error


def test_statistics_by_hand(bundle: Bundle) -> None:
    """3 + 4 + 3 words in three captions; a, dog, runs, cat; the second lacks <eos>, the third has <unk>."""
    report = evaluate(Parrot(bundle, list(SAID)), RECORDS, tokenizer="own")
    statistics = report.statistics
    assert statistics.mean_length == pytest.approx(10 / 3)
    assert (statistics.distinct_words, statistics.distinct_captions) == (4, 2)
    assert (statistics.unknown_words, statistics.unfinished) == (1, 1)
    assert report.ms_per_photo == 4.0


def test_report_holds_the_settings_that_were_really_used(bundle: Bundle) -> None:
    """The tiny bundle's defaults are 2 beams and 12 tokens; what the call overrides is reported instead."""
    parrot = Parrot(bundle, list(SAID))
    report = evaluate(parrot, RECORDS, length_penalty=0.5, batch_size=3, tokenizer="own")
    assert report.decode == {
        "num_beams": 2,
        "max_new_tokens": 12,
        "length_penalty": 0.5,
        "no_repeat_ngram_size": 0,
        "batch_size": 3,
    }
    assert (parrot.asked["length_penalty"], parrot.asked["num_beams"]) == (0.5, None)
    assert (report.bundle, report.precision, report.provider) == ("tiny", "fp32", "cpu")


def test_json_file_has_everything_and_replaces_the_old_one_whole(bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("old", encoding="utf-8")
    report = evaluate(Parrot(bundle, list(SAID)), RECORDS, tokenizer="own")
    report.write_json(target)
    document = json.loads(target.read_text(encoding="utf-8"))
    assert document == json.loads(report.to_json())
    assert document["metrics"]["tokenizer"] == "own"
    assert "cider_per_image" not in document["metrics"]
    assert (document["num_failures"], len(document["photos"])) == (1, 3)
    assert set(document["photos"][0]) == {"path", "image_id", "caption", "confidence", "cider", "references"}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.json"]


def test_summary_has_the_scores_the_tokenizer_and_the_failures(bundle: Bundle) -> None:
    text = str(evaluate(Parrot(bundle, list(SAID)), RECORDS, tokenizer="own"))
    assert "3 photos, 1 failed; tokenizer: own" in text
    assert "CIDEr-D" in text
    assert "num_beams 2" in text


def test_nothing_to_evaluate_is_an_error(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="no photo to evaluate on"):
        evaluate(Parrot(bundle, []), [])
    with pytest.raises(KilowordError, match=r"no photo could be captioned.*cannot be read"):
        evaluate(Parrot(bundle, [None]), RECORDS[:1])


def test_real_captioner_gives_the_rows_that_it_gives_alone(bundle: Bundle, tmp_path: Path) -> None:
    """Expected captions: the same captioner asked for each photo by itself."""
    random = np.random.default_rng(1)
    records = []
    for name in ("a.png", "b.png", "c.png"):
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        records.append(CaptionRecord(tmp_path / name, ("a dog runs", "the cat sits"), name))
    records.insert(1, CaptionRecord(tmp_path / "gone.png", ("nothing",), "gone.png"))
    with Captioner.load(bundle.directory, provider="cpu", threads=1) as captioner:
        report = evaluate(captioner, records, num_beams=1, batch_size=2, tokenizer="own")
        alone = [captioner.caption(tmp_path / f"{name}.png", num_beams=1).text for name in "abc"]
    assert [row.caption for row in report.photos] == alone
    assert [failure.path for failure in report.failures] == [str(tmp_path / "gone.png")]
    assert report.statistics.unknown_words == 0


def test_evaluation_does_not_import_torch() -> None:
    """`kiloword evaluate` must run where only the runtime is installed."""
    code = "import sys, kiloword.train.evaluation; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
