"""What a run learns from, loaded from drawn shapes; counts are those of the helper that draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from kiloword.runtime.errors import ConfigError
from kiloword.train.material import Material, load_material, validation_names
from kiloword.train.recipe import DataSet
from kiloword.train.recipe_file import recipe_from_table
from tests.shapes import make_shapes, tiny_recipe


def load(root: Path, **data: Any) -> Material:
    table = tiny_recipe(root)
    table["data"] |= data
    return load_material(recipe_from_table(table), lambda *facts: None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_shapes(tmp_path / "shapes")
    return tmp_path


def test_records_captions_and_pixels_belong_together(root: Path) -> None:
    material = load(root)
    assert material.photos.pixels.shape == (20, 32, 32, 3)
    assert material.rows.tolist() == list(range(20))
    assert len(material.captions) == 20
    words = material.tokenizer.decode(material.captions[0].all[0].tolist())
    assert words == "a red circle"
    red, green, blue = material.photos.pixels[0, 14, 14]
    assert red > 200 > green + blue
    assert [(item.name, len(item.records)) for item in material.validation] == [("shapes", 4)]
    assert material.facts == {
        "photos": 20,
        "captions": 40,
        "vocabulary": material.tokenizer.get_vocab_size(),
        "unusable": 0,
    }


def test_several_sets_repeated_and_limited(root: Path) -> None:
    """Five photos, evenly spread over 20, then the four of dev twice."""
    train = [
        {"source": "shapes", "split": "train", "limit": 5},
        {"source": "shapes", "split": "dev", "repeat": 2},
    ]
    material = load(root, train=train)
    assert material.rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 8]
    whole = load(root)
    assert material.photos.pixels.shape[0] == 9
    for limited, row in enumerate((0, 4, 9, 14, 19)):
        assert (material.photos.pixels[limited] == whole.photos.pixels[row]).all()


def test_photos_may_lie_elsewhere(root: Path) -> None:
    (root / "shapes" / "captions.jsonl").rename(root / "captions.jsonl")
    train = [{"source": "captions.jsonl", "split": "train", "images": "shapes"}]
    assert load(root, train=train, validation=train).facts["photos"] == 20


def test_a_missing_data_set_is_named(root: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load(root, train=[{"source": "nowhere"}])


def test_the_digest_knows_words_and_order(root: Path) -> None:
    digest = load(root).digest()
    assert load(root).digest() == digest
    train = [{"source": "shapes", "split": "train", "repeat": 2}]
    assert load(root, train=train).digest() != digest
    captions = root / "shapes" / "captions.jsonl"
    captions.write_text(captions.read_text().replace("grey", "gray"))
    assert load(root).digest() != digest


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ([DataSet("flickr8k", "dev"), DataSet("coco/captions_dev.json")], ["flickr8k", "coco"]),
        ([DataSet("flickr8k/Flickr8k.token.txt", "dev")], ["flickr8k"]),
        ([DataSet("captions.json")], ["captions"]),
        ([DataSet("."), DataSet("mine")], ["data", "mine"]),
        ([DataSet("a/one.json"), DataSet("a/two.json")], ["a one", "a two"]),
        ([DataSet("a", "dev"), DataSet("a", "test"), DataSet("b")], ["a dev", "a test", "b"]),
        ([DataSet("x/a", "dev"), DataSet("y/a", "dev")], ["a dev 1", "a dev 2"]),
        ([DataSet("mean"), DataSet("a")], ["mean 1", "a"]),
    ],
)
def test_names_of_validation_sets_are_clear_and_distinct(sets: list[DataSet], expected: list[str]) -> None:
    """Two sets of one name used to share one number, and the mean was that of the last."""
    assert validation_names(sets) == expected
