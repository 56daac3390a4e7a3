"""Evaluation of a bundle: with a captioner that says what the test tells it, and with a real tiny bundle."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kiloword.cli import main
from kiloword.runtime.bundle import Bundle
from kiloword.runtime.captioner import Caption, Captioner, CaptionFailure
from kiloword.runtime.errors import ConfigError, ImageError, KilowordError
from kiloword.train.caption_statistics import repeats_itself
from kiloword.train.comparison import SavedCaptions, compare, read_captions
from kiloword.train.datasets import CaptionRecord
from kiloword.train.evaluation import evaluate
from kiloword.train.metrics import score
from kiloword.train.report_page import report_page
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
    assert (statistics.shortest, statistics.longest) == (3, 4)
    assert statistics.distinct_1 == pytest.approx(4 / 10)
    # a dog, dog runs, a cat, cat a, among 2 + 3 + 2 pairs
    assert statistics.distinct_2 == pytest.approx(4 / 7)
    assert (statistics.repetitive, statistics.unreliable, statistics.new_captions) == (0, 0, None)
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
        "min_new_tokens": 0,
        "early_stopping": False,
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
    said = {"caption", "confidence", "reliable", "reason", "unfinished", "repetitive"}
    assert set(document["photos"][0]) == {"path", "image_id", *said, "cider", "rouge_l", "references"}
    assert document["intervals"]["cider"]["low"] <= document["metrics"]["cider"]
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


def test_captions_that_people_wrote_for_the_training_photos_are_not_new(bundle: Bundle) -> None:
    """Capitals and full stops do not make a caption new."""
    known = ["A dog runs .", "a bird"]
    report = evaluate(Parrot(bundle, list(SAID)), RECORDS, tokenizer="own", training_captions=known)
    assert report.statistics.new_captions == pytest.approx(1 / 3)
    assert "33.3% not in the training captions" in str(report)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a man on a horse on a hill", False),
        ("a dog dog runs", True),
        ("a dog and a dog and a cat", True),
        ("a", False),
        ("", False),
    ],
)
def test_repetition_is_counted(caption: str, expected: bool) -> None:
    assert repeats_itself(caption.split()) is expected


def test_rows_as_csv(bundle: Bundle) -> None:
    report = evaluate(Parrot(bundle, list(SAID)), RECORDS, tokenizer="own")
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [row["image_id"] for row in rows] == ["1.jpg", "3.jpg", "4.jpg"]
    assert rows[0]["references"] == "a dog runs | the dog"
    assert (rows[1]["unfinished"], rows[1]["reliable"]) == ("True", "True")
    assert float(rows[0]["cider"]) == report.photos[0].cider


def test_the_page_shows_everything_and_loads_nothing(bundle: Bundle, tmp_path: Path) -> None:
    """Worst first; what people wrote cannot become markup; the picture is inside, with its shape kept."""
    Image.new("RGB", (400, 200), "red").save(tmp_path / "wide.png")
    records = [
        CaptionRecord(tmp_path / "gone.jpg", ("a dog runs", "the dog"), "good & gone"),
        CaptionRecord(tmp_path / "wide.png", ("<script>alert(1)</script>",), "wide"),
    ]
    page = report_page(evaluate(Parrot(bundle, [SAID[0], SAID[2]]), records, tokenizer="own"))
    assert page.index(">wide<") < page.index("good &amp; gone")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert not re.search(r"(src|href)=.?https?:", page)
    (encoded,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as small:
        assert small.size == (176, 88)
    assert page.count("aria-sort=") >= 3
    assert "unfinished" in page
    HTMLParser().feed(page)


def saved(name: str, *said: str) -> SavedCaptions:
    photos = {str(n): (text, (f"a dog runs in park {n}", "the dog")) for n, text in enumerate(said)}
    return SavedCaptions(name, "own", photos)


def test_a_comparison_says_who_is_better_and_by_how_much() -> None:
    first = saved("old", *["a cat"] * 40)
    second = saved("new", *[f"a dog runs in park {n}" for n in range(40)])
    found = compare(first, second)
    cider = next(one for one in found.differences if one.metric == "cider")
    assert str(found).startswith(f"B is better by {cider.difference:.1f} +- {cider.margin:.1f} CIDEr (95 %)")
    assert str(compare(second, first)).startswith("B is worse by")
    assert "do not differ by more than chance" in str(compare(first, first))
    assert (found.photos, found.left_out) == (40, 0)
    assert json.loads(found.to_json())["differences"][0]["metric"] == "bleu_1"


def test_only_photos_that_both_captioned_are_compared() -> None:
    found = compare(saved("old", "a dog", "a cat", "a man"), saved("new", "a dog", "a cat"))
    assert (found.photos, found.left_out) == (2, 1)
    other = SavedCaptions("other", "own", {"0": ("a dog", ("something else",))})
    with pytest.raises(ConfigError, match="other references"):
        compare(saved("old", "a dog"), other)
    with pytest.raises(ConfigError, match="no photo in common"):
        compare(saved("old", "a dog"), SavedCaptions("other", "own", {"x": ("a", ("a",))}))


def test_saved_evaluations_are_read_again(bundle: Bundle, tmp_path: Path) -> None:
    report = evaluate(Parrot(bundle, list(SAID)), RECORDS, tokenizer="own")
    report.write_json(tmp_path / "a.json")
    assert read_captions(tmp_path / "a.json").photos == SavedCaptions.of(report, "x").photos
    (tmp_path / "b.json").write_text("{}", encoding="utf-8")
    for name, message in (("b.json", "is no evaluation"), ("c.json", "cannot be read")):
        with pytest.raises(ConfigError, match=message):
            read_captions(tmp_path / name)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = []
    for number in range(6):
        Image.new("RGB", (20, 20), (40 * number, 90, 30)).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "caption": "a dog runs on the beach"}))
    (folder / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_the_command_compares_bundles_and_saved_files(bundle: Bundle, dataset: Path, tmp_path: Path) -> None:
    other = make_tiny_bundle(tmp_path / "other", seed=3)
    run = CliRunner().invoke
    common = ["evaluate", str(dataset), "--split", "all", "--threads", "1"]
    for path, name in ((bundle.directory, "a.json"), (other.directory, "b.json")):
        options = ["--bundle", str(path), "--format", "json", "-o", str(tmp_path / name)]
        result = run(main, [*common, *options, "--report", str(tmp_path / "page.html")])
        assert result.exit_code == 0, result.output
    assert "<table" in (tmp_path / "page.html").read_text(encoding="utf-8")
    both = [str(bundle.directory), str(other.directory)]
    live = run(main, [*common, "--compare", *both, "--format", "json"])
    saved_files = run(
        main,
        [
            "evaluate",
            "--compare",
            *(str(tmp_path / name) for name in ("a.json", "b.json")),
            "--format",
            "json",
        ],
    )
    assert live.exit_code == saved_files.exit_code == 0, live.output + saved_files.output
    assert json.loads(live.stdout)["differences"] == json.loads(saved_files.stdout)["differences"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["--compare", "bundle", "b.json"], ["data", "--compare", "a", "b", "--report", "page.html"]],
)
def test_misuse_of_the_command_is_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, ["evaluate", *arguments]).exit_code == 2


def test_no_unknown_word_is_ever_shown(tmp_path: Path) -> None:
    """Random bundles of all kinds, greedy and with beams: neither the token nor its name."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    for seed in range(3):
        for kind in ("transformer", "recurrent", "image_prefix"):
            made = make_tiny_bundle(tmp_path / f"{kind}{seed}", kind=kind, seed=seed)  # type: ignore[arg-type]
            with Captioner.load(made.directory, provider="cpu", threads=1) as captioner:
                for num_beams in (1, 3):
                    for caption in captioner.caption_pixels(pixels, num_beams=num_beams):
                        assert UNKNOWN not in caption.token_ids
                        assert "unk" not in caption.spoken + caption.text
