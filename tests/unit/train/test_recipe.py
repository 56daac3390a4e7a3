"""Recipes: what ships is good, mistakes are all reported at once, and --set reaches everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kiloword.runtime.errors import ConfigError
from kiloword.train.recipe import Recipe
from kiloword.train.recipe_file import load_recipe, recipe_from_table
from tests.shapes import tiny_recipe

GOOD = """
name = "mine"
[data]
train = [{ source = "a", split = "train" }]
validation = [{ source = "b.json" }]
[[stages]]
name = "first"
passes = 2
learning_rate = 1e-3
frozen_blocks = 12
[[stages]]
name = "second"
passes = 1
learning_rate = 1
"""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def problems_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    assert caught.value.path == str(path)
    return sorted(caught.value.problems)


def test_file_and_defaults(written: Path) -> None:
    recipe = load_recipe(written)
    assert [stage.name for stage in recipe.stages] == ["first", "second"]
    assert recipe.data.train[0].source == "a"
    assert (recipe.seed, recipe.device, recipe.encoder.width) == (1, "auto", 192)
    assert isinstance(recipe.stages[1].learning_rate, float)


def test_every_recipe_that_ships_is_good(repository: Path) -> None:
    names = [path.stem for path in (repository / "train" / "recipes").glob("*.toml")]
    assert "tiny" in names
    assert all(isinstance(load_recipe(name), Recipe) for name in names)


def test_a_recipe_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such recipe; .*tiny"):
        load_recipe("nowhere.toml")


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe"])
def test_no_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    assert problems_of(path)[0].startswith("not a TOML file: ")


def test_all_problems_at_once(written: Path) -> None:
    """Unknown and missing keys, wrong types and words: one run names them all."""
    written.write_text(
        GOOD.replace("passes = 1", "passess = 1")
        .replace('name = "mine"', 'name = 7\ndevice = "tpu"')
        .replace("learning_rate = 1e-3", 'learning_rate = "fast"'),
        encoding="utf-8",
    )
    assert problems_of(written, "--nothing", "tokenizer.kind=letters") == [
        "--set --nothing: expected section.key=value",
        "recipe.device: expected one of 'auto', 'cpu', 'cuda', found 'tpu'",
        "recipe.name: expected text, found 7",
        "recipe.stages[0].learning_rate: expected a number, found 'fast'",
        "recipe.stages[1] has the unknown key 'passess'",
        "recipe.stages[1] lacks the key 'passes'",
        "recipe.tokenizer.kind: expected one of 'word', 'bpe', 'chars', found 'letters'",
    ]


def test_all_senseless_values_at_once(written: Path) -> None:
    found = problems_of(
        written,
        "stages.0.passes=0",
        "stages.0.frozen_blocks=13",
        "stages.1.learning_rate=0",
        "stages.1.label_smoothing=1",
        "encoder.patch_size=0",
        "decoder.heads=3",
        "decoder.dropout=1",
        "data.validation=[]",
        "data.train=[{source='a', repeat=0}]",
        "tokenizer.max_tokens=50",
        "optimizer.max_gradient_norm=0",
        "optimizer.beta1=1",
        "validation.every_passes=0",
        "generation.max_new_tokens=41",
        "generation.num_beams=0",
        "threads=0",
        "seed=-1",
    )
    assert found == sorted(
        [
            "stages[0].passes: expected 1 or more, found 0",
            "stages[0].frozen_blocks: expected 0 to 12, the encoder's depth, found 13",
            "stages[1].learning_rate: expected more than 0, found 0.0",
            "stages[1].label_smoothing: expected 0 or more and less than 1, found 1.0",
            "encoder.patch_size: expected 1 or more, found 0",
            "decoder.heads 3 does not divide width 256",
            "decoder.dropout: expected 0 or more and less than 1, found 1.0",
            "data.validation: expected at least one data set",
            "data.train[0].repeat: expected 1 or more, found 0",
            "tokenizer.max_tokens 50 is more than decoder.max_length 40",
            "optimizer.max_gradient_norm: expected more than 0, found 0.0",
            "optimizer.beta1: expected 0 or more and less than 1, found 1.0",
            "validation.every_passes: expected 1 or more, found 0",
            "generation.max_new_tokens: expected 1 to 40, decoder.max_length, found 41",
            "generation.num_beams: expected 1 or more, found 0",
            "threads: expected 1 or more, found 0",
            "seed: expected 0 or more, found -1",
        ]
    )


def test_a_wrong_type_hides_no_senseless_value(written: Path) -> None:
    """Before, a section that could not be read kept the values of all others from being looked at."""
    overrides = ["tokenizer.kind=letters", "stages.0.passes=0", "decoder.dropout=1"]
    assert problems_of(written, *overrides) == [
        "decoder.dropout: expected 0 or more and less than 1, found 1.0",
        "recipe.tokenizer.kind: expected one of 'word', 'bpe', 'chars', found 'letters'",
        "stages[0].passes: expected 1 or more, found 0",
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("encoder.patch_size=15", "encoder.patch_size 15 does not divide image_size 224"),
        ("encoder.heads=5", "encoder.heads 5 does not divide width 192"),
        ("encoder.drop_path=1", "encoder.drop_path: expected 0 or more and less than 1, found 1.0"),
        ("encoder.pixel_mean=[0.5]", "encoder.pixel_mean: expected 3 numbers, found 1"),
        ("encoder.pixel_std=[0.5, 0, 0.5]", "encoder.pixel_std: expected numbers other than 0"),
        ("stages=[]", "stages: expected at least one"),
        ("stages.7.passes=1", "--set stages.7.passes=1: there is no 'stages.7.passes' in this recipe"),
        ("stages.a.passes=1", "--set stages.a.passes=1: there is no 'stages.a.passes' in this recipe"),
        ("name.first=1", "--set name.first=1: there is no 'name.first' in this recipe"),
        ("optimizer.rate=1", "recipe.optimizer has the unknown key 'rate'"),
    ],
)  # fmt: skip
def test_one_problem(written: Path, override: str, expected: str) -> None:
    assert problems_of(written, override) == [expected]


def test_set_reaches_everything(written: Path) -> None:
    recipe = load_recipe(
        written,
        [
            "seed=7",
            "name=other words",
            "device='cpu'",
            "optimizer.weight_decay=0.1",
            "stages.1.passes=5",
            "data.train.0.limit = 10",
            "encoder.weights=a=b.safetensors",
            "encoder.pixel_mean=[0.1, 0.2, 0.3]",
        ],
    )
    assert (recipe.seed, recipe.name, recipe.device) == (7, "other words", "cpu")
    assert recipe.optimizer.weight_decay == 0.1
    assert [stage.passes for stage in recipe.stages] == [2, 5]
    assert recipe.data.train[0].limit == 10
    assert recipe.encoder.weights == "a=b.safetensors"
    assert recipe.encoder.pixel_mean == (0.1, 0.2, 0.3)


def test_a_recipe_survives_its_table() -> None:
    recipe = load_recipe("tiny")
    assert recipe_from_table(recipe.as_table()) == recipe


def test_the_digest_changes_with_any_choice(written: Path) -> None:
    digests = [load_recipe(written, [item]).digest() for item in ("seed=1", "seed=2", "stages.0.views=3")]
    assert digests[0] == load_recipe(written).digest()
    assert len(set(digests)) == 3


def test_a_table_of_another_version_is_refused() -> None:
    table: dict[str, Any] = {**tiny_recipe(Path()), "new_idea": True}
    with pytest.raises(ConfigError, match="unknown key 'new_idea'"):
        recipe_from_table(table)


def test_a_recipe_says_only_what_its_base_does_not(written: Path, tmp_path: Path) -> None:
    """Tables are merged, lists and tables of another kind replaced; --set has the last word."""
    above = tmp_path / "above.toml"
    above.write_text(
        f'base = "{written.name}"\nname = "above"\n'
        '[decoder]\nwidth = 128\n[encoder]\nkind = "mobilenet_v2"\n',
        encoding="utf-8",
    )
    recipe, under = load_recipe(above, ["seed=5"]), load_recipe(written, ["decoder.width=128"])
    assert (recipe.name, recipe.seed, recipe.encoder.kind) == ("above", 5, "mobilenet_v2")
    assert (recipe.data, recipe.stages, recipe.decoder) == (under.data, under.stages, under.decoder)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("7", "base: expected the name or the file of a recipe, found 7"),
        ('"nowhere"', "no such recipe"),
        ('"above.toml"', "base: this recipe is its own base"),
    ],
)
def test_a_base_that_is_none(tmp_path: Path, base: str, expected: str) -> None:
    above = tmp_path / "above.toml"
    above.write_text(f"base = {base}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=expected):
        load_recipe(above)


@pytest.mark.parametrize("table", [None, [], "name", 7])
def test_what_is_no_table_at_all(table: object) -> None:
    """A damaged checkpoint may hold this: it was an AttributeError before."""
    with pytest.raises(ConfigError, match="recipe: expected an object"):
        recipe_from_table(table)


@pytest.mark.parametrize("table", [{"data": None}, {"stages": None}, {"stages": [None]}, {"encoder": []}])
def test_sections_that_are_no_tables(table: object) -> None:
    with pytest.raises(ConfigError, match=r"expected|lacks"):
        recipe_from_table(table)
