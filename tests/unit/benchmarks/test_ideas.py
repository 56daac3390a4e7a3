"""The benchmark of ideas: every idea is a recipe that can be run, rows are kept, the table is right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from benchmarks import ideas
from kiloword import Captioner
from kiloword.train.material import load_captions
from kiloword.train.recipe_file import load_recipe
from tests.shapes import make_shapes


@pytest.mark.parametrize("idea", ideas.IDEAS, ids=lambda idea: idea.name)
def test_every_idea_is_a_recipe_that_differs_from_the_baseline(idea: ideas.Idea) -> None:
    recipe = load_recipe("ideas", idea.changes)
    differs = recipe != load_recipe("ideas") or idea.vocabulary or idea.taught
    assert differs == (idea.name != ideas.BASELINE)


def test_differences_are_to_the_mean_of_the_baselines() -> None:
    rows = [
        {"name": "baseline", "cider_flickr8k": 10.0, "cider_coco": 12.0, "cider_mean": 11.0},
        {"name": "baseline, seed 2", "cider_flickr8k": 12.0, "cider_coco": 14.0, "cider_mean": 13.0},
        {"name": "better", "cider_flickr8k": 14.0, "cider_coco": 14.5, "cider_mean": 14.25},
    ]
    assert ideas.as_table(rows).splitlines() == [
        "| Idea | flickr8k | coco | Mean, less the baseline's |",
        "|---|---|---|---|",
        "| baseline | 10.0 | 12.0 | -1.0 |",
        "| baseline, seed 2 | 12.0 | 14.0 | +1.0 |",
        "| better | 14.0 | 14.5 | +2.2 |",
    ]


def test_a_run_trains_once_and_writes_its_rows(tmp_path: Path) -> None:
    """On coloured shapes; the second start finds all of it done."""
    make_shapes(tmp_path / "shapes")
    sets = {
        "data.train": '[{source="shapes", split="train"}]',
        "data.validation": '[{source="shapes", split="dev"}]',
        "tokenizer.min_count": "1",
        "encoder": "{image_size=32, patch_size=8, width=32, depth=12, heads=2}",
        "decoder": "{width=32, depth=1, heads=2}",
        "stages.0.batch_size": "8",
    }
    output = tmp_path / "result.json"
    arguments = ["--data", str(tmp_path), "--work", str(tmp_path / "work"), "--output", str(output)]
    arguments += [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    nothing = CliRunner().invoke(ideas.main, [*arguments, "--finished"])
    assert nothing.exit_code == 2
    done = CliRunner().invoke(ideas.main, [*arguments, "--idea", "seed 2", "--idea", "smoothing"])
    assert done.exit_code == 0, done.output
    rows = json.loads(output.read_text())["measurements"]
    assert [row["name"] for row in rows] == ["baseline, seed 2", "no label smoothing"]
    assert all(row["cider_mean"] >= 0 for row in rows)
    (tmp_path / "shapes").rename(tmp_path / "gone")
    again = CliRunner().invoke(ideas.main, [*arguments, "--finished"])
    assert again.exit_code == 0, again.output
    assert json.loads(output.read_text())["measurements"] == rows


def test_a_teacher_adds_its_caption_to_those_of_people(tmp_path: Path) -> None:
    make_shapes(tmp_path / "shapes")
    recipe = load_recipe("ideas", [f"data.root={tmp_path}", 'data.train=[{source="shapes", split="train"}]'])
    change = ideas._taught(recipe, tmp_path / "taught")
    before, _ = load_captions(recipe.data.train[0], recipe.data)
    after, _ = load_captions(load_recipe("ideas", change).data.train[0], recipe.data)
    assert [record.image.resolve() for record in after] == [record.image.resolve() for record in before]
    assert [record.captions[:-1] for record in after] == [record.captions for record in before]
    with Captioner.load() as teacher:
        assert after[3].captions[-1] == teacher.caption(before[3].image).text


def test_an_idea_that_nobody_had_is_misuse() -> None:
    assert CliRunner().invoke(ideas.main, ["--idea", "more data"]).exit_code == 2
