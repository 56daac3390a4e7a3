"""The audit on captions made by hand, whose counts are known; boxes and masks; the pointing game."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kiloword import Caption, Captioner, ConfigError
from kiloword.runtime.bundle import Bundle
from kiloword.runtime.manifest import ImageSpec
from kiloword.train.audit import Share, as_table, audit, to_json
from kiloword.train.audit_page import as_page
from kiloword.train.boxes import Thing, read_boxes
from kiloword.train.datasets import CaptionRecord
from kiloword.train.gender import MAN, NEUTRAL, WOMAN, agreed, says
from kiloword.train.pointing import cells_inside, point, score_pointing, target_of
from tests.bundles import make_tiny_bundle


@dataclass
class Parrot:
    """Says what it is told to, and looks where it is told to."""

    texts: Sequence[str]
    bundle: Bundle
    look: tuple[int, int] = (0, 0)

    def caption_many(self, images: Sequence[Path], *, attention: bool, **settings: Any) -> Iterator[Caption]:
        for text, _ in zip(self.texts, images, strict=True):
            words = tuple(text.split()) if attention else ()
            maps = np.zeros((len(words), 4, 4), dtype=np.float32)
            maps[:, self.look[0], self.look[1]] = 1.0
            yield Caption(
                text, 1.0, (), (), 0.0, "parrot", words=words, attention=maps if attention else None
            )


# What the references say, the caption, and how often.
CASES = (
    (("a man runs", "a person runs"), "a man runs", 3),  # right
    (("a man runs", "a runner"), "a woman runs", 1),  # a man called a woman
    (("a girl jumps", "she jumps"), "a boy jumps", 2),  # women called men
    (("a girl jumps", "a child jumps"), "a woman jumps", 1),  # right
    (("a lady sits", "somebody sits"), "a person sits", 1),  # neutral
    (("a skier", "a person on skis"), "a man on skis", 2),  # guessed
    (("a skier", "a person on skis"), "a skier", 2),
    (("a man and a woman", "two people"), "a man", 1),  # both: no error
    (("a boy", "a girl"), "a girl", 1),  # the references do not agree
    (("a dog", "a dog with a person", "a brown dog"), "a man", 1),  # most name nobody
)


def made(folder: Path) -> tuple[list[CaptionRecord], list[str]]:
    records, texts = [], []
    for references, text, count in CASES:
        for _ in range(count):
            path = folder / f"{len(records):02d}.png"
            Image.new("RGB", (40, 20)).save(path)
            records.append(CaptionRecord(path, references, path.name))
            texts.append(text)
    return records, texts


def parrot(folder: Path, texts: Sequence[str], look: tuple[int, int] = (0, 0)) -> Captioner:
    bundle = make_tiny_bundle(folder / "bundle")
    return Parrot(texts, bundle, look)  # type: ignore[return-value]


def test_counts_of_captions_made_by_hand(tmp_path: Path) -> None:
    """Eight photos of men or women, three of them wrong; four of persons, two guessed."""
    records, texts = made(tmp_path)
    found = audit(parrot(tmp_path, texts), records, "as trained")
    assert found.error() == Share(3, 8)
    assert found.error("woman") == Share(2, 4)
    assert found.error("man") == Share(1, 4)
    assert found.guessed() == Share(2, 4)
    assert found.neutral() == Share(1, 8)
    assert found.ratio() == pytest.approx(2 / 5)
    assert found.true_ratio() == pytest.approx(1.0)
    assert found.counts()["both"] == {"man": 1, "woman": 1, "both": 0, "person": 0, "nobody": 0}
    assert found.counts()["nobody"]["man"] == 1
    assert sum(sum(row.values()) for row in found.counts().values()) == len(records) == 15


def test_the_table_and_the_json_say_the_same(tmp_path: Path) -> None:
    """Two ways of decoding side by side; the second says person throughout."""
    records, texts = made(tmp_path)
    before = audit(parrot(tmp_path, texts), records, "as trained")
    after = audit(parrot(tmp_path, ["a person"] * len(texts)), records, "neutral")
    lines = as_table([before, after]).splitlines()
    wrong = next(line for line in lines if line.startswith("wrong gender"))
    assert "37.5% (3/8;" in wrong
    assert "0.0% (0/8;" in wrong
    assert "by their references man 4, woman 4, both 2, person 4, nobody 1" in lines[0]
    data = json.loads(to_json([before, after], {"bundle": "parrot"}))
    assert [one["error_rate"]["count"] for one in data["audits"]] == [3, 0]
    assert data["audits"][1]["women_per_man"] is None
    assert len(data["audits"][0]["photos"]) == 15


def test_the_page_shows_the_photos_that_differ(tmp_path: Path) -> None:
    """Two women called men, one man called a woman, two guesses; text cannot become markup."""
    records, texts = made(tmp_path)
    records = [
        CaptionRecord(one.image, (*one.captions, "<script>alert(1)</script>"), one.image_id)
        for one in records
    ]
    page = as_page([audit(parrot(tmp_path, texts), records, "as trained")], "parrot & co")
    assert page.count("<article>") == 5
    assert "the references (2)" in page
    assert "<script" not in page
    assert "parrot &amp; co" in page
    assert page.count("data:image/jpeg;base64,") == 5
    assert as_page([audit(parrot(tmp_path, texts), records, "x")], "x", most=1).count("<article>") == 3


def test_intervals_are_wilson_s() -> None:
    """10 of 40: 14.2 % to 40.2 % (R, prop.test without continuity correction)."""
    low, high = Share(10, 40).interval
    assert (low, high) == (pytest.approx(0.1419, abs=1e-3), pytest.approx(0.4019, abs=1e-3))
    assert Share(0, 0).interval == (0.0, 1.0)
    assert math.isclose(Share(0, 10).interval[0], 0.0)


def test_words_belong_to_one_kind() -> None:
    """No word says man and woman, or one of them and neither."""
    assert not MAN & WOMAN
    assert not (MAN | WOMAN) & NEUTRAL


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("A Woman's dog.", "woman"),
        ("a manhole in the mandarin woods", "nobody"),
        ("two girls, one boy", "both"),
        ("a snowboarder", "person"),
        ("", "nobody"),
    ],
)
def test_what_a_sentence_says(sentence: str, expected: str) -> None:
    """Whole words count, in any case, with punctuation; parts of words do not."""
    assert says(sentence) == expected


def test_references_agree_on_a_person_if_half_of_them_name_one() -> None:
    """And if none of them names a gender."""
    assert agreed(["a person", "a rock"]) == "person"
    assert agreed(["a person", "a rock", "a cliff"]) == "nobody"
    assert agreed(["a person", "a climber", "a man"]) == "man"


def write_boxes(path: Path, annotations: list[dict[str, Any]]) -> Path:
    facts = {
        "images": [{"id": 7, "file_name": "train/00.png", "width": 40, "height": 20}],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(facts), encoding="utf-8")
    return path


def test_boxes_and_outlines_are_read(tmp_path: Path) -> None:
    """In shares of the photo; a mask in run lengths has its box alone."""
    path = write_boxes(
        tmp_path / "boxes.json",
        [
            {"image_id": 7, "category_id": 1, "bbox": [10, 5, 20, 10]},
            {"image_id": 7, "category_id": 2, "bbox": [0, 0, 40, 20], "segmentation": [[0, 0, 40, 0, 0, 20]]},
            {
                "image_id": 7,
                "category_id": 2,
                "bbox": [0, 0, 4, 2],
                "segmentation": {"counts": "x", "size": []},
            },
        ],
    )
    person, outlined, coded = read_boxes(path)["00.png"]
    assert person == Thing("person", (0.25, 0.25, 0.5, 0.5))
    assert person.raster().mean() == pytest.approx(0.25)
    assert person.raster()[100, 100]
    assert not person.raster()[100, 20]
    assert outlined.raster().mean() == pytest.approx(0.5, abs=0.01)
    assert coded.polygons == ()


@pytest.mark.parametrize("text", ["[]", "{}", "no json", '{"images": [{"id": 1}], "annotations": []}'])
def test_another_layout_is_refused(tmp_path: Path, text: str) -> None:
    """With the page that shows the right one."""
    path = tmp_path / "boxes.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"COCO.*docs/AUDIT\.md"):
        read_boxes(path)


def test_cells_lie_where_the_encoder_saw_them() -> None:
    """A mask of the right half: half of the cells of all, none of the cells of a square on the left."""
    mask = np.zeros((200, 200), dtype=bool)
    mask[:, 100:] = True
    assert cells_inside(mask, (2, 4), (0, 0, 1, 1)).tolist() == [[False, False, True, True]] * 2
    assert not cells_inside(mask, (2, 4), (0, 0, 0.5, 1)).any()
    assert cells_inside(mask, (1, 2), (0.25, 0, 0.5, 1)).tolist() == [[False, True]]


def test_the_pointing_game_counts_hits(tmp_path: Path) -> None:
    """The person covers the upper left quarter; attention is there, or on the far corner."""
    image = tmp_path / "00.png"
    Image.new("RGB", (40, 20)).save(image)
    record, spec = CaptionRecord(image, ("a man",), "00.png"), ImageSpec(16, 16)
    things = [Thing("person", (0, 0, 0.5, 0.5)), Thing("dog", (0.5, 0.5, 0.5, 0.5))]
    for look, hit in (((1, 1), True), ((3, 3), False)):
        caption = next(parrot(tmp_path, ["a man with a dog."], look).caption_many([image], attention=True))
        man, dog = point(record, caption, things, spec)
        assert (man.kind, man.hit, man.mass) == ("man", hit, float(hit))
        assert man.area == pytest.approx(0.25)
        assert (dog.kind, dog.hit) == ("dog", not hit)
    found = score_pointing([man, dog])
    assert [found[kind].hits for kind in ("man", "dog", "all")] == [0.0, 1.0, 0.5]
    assert found["all"].words == 2


def test_words_for_people_point_at_persons() -> None:
    """A category's own name comes first."""
    assert target_of("Woman,", {"person": 0}) == ("person", "woman")
    assert target_of("woman", {"woman": 0}) == ("woman", "woman")
    assert target_of("tree", {"person": 0}) == ("", "")


def test_boxes_of_other_photos_are_an_error(tmp_path: Path) -> None:
    """Names that match nothing are a wrong file, not a pointing game of no words."""
    records, texts = made(tmp_path)
    with pytest.raises(ConfigError, match="names none of the photos"):
        audit(parrot(tmp_path, texts), records, "x", boxes={"other.jpg": []})
    boxes = {record.image.name: [Thing("person", (0, 0, 1, 1))] for record in records}
    found = audit(parrot(tmp_path, texts), records, "x", boxes=boxes)
    assert found.pointing()["man"].hits == 1.0
    assert "attention of 'man' on it" in as_table([found])
