"""Checkpoints: whole or not at all, the same after a round trip, and a clear word when they are none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from kiloword.train import checkpoint as checkpoints
from kiloword.train.checkpoint import (
    CheckpointError,
    build_model,
    load_checkpoint,
    load_optimizer,
    load_resume,
    optimizer_tensors,
    recover_directory,
    save_model,
    save_resume,
)
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.recipe import Recipe
from kiloword.train.recipe_file import recipe_from_table
from kiloword.train.tokenizers import train_word_tokenizer
from tests.shapes import tiny_recipe

TOKENIZER = train_word_tokenizer(["a red square", "a blue circle"], min_count=1, vocab_size=50)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return recipe_from_table(tiny_recipe(Path("somewhere")))


@pytest.fixture(scope="module")
def model(recipe: Recipe) -> CaptionModel:
    torch.manual_seed(9)
    return build_model(recipe, TOKENIZER.get_vocab_size())


@pytest.fixture
def saved(tmp_path: Path, model: CaptionModel, recipe: Recipe) -> Path:
    save_model(tmp_path / "best", model.state_dict(), TOKENIZER, recipe, {"passes": 3})
    return tmp_path / "best"


def test_round_trip(saved: Path, model: CaptionModel, recipe: Recipe) -> None:
    found = load_checkpoint(saved)
    assert found.recipe == recipe
    assert found.training == {"passes": 3}
    assert found.tokenizer.get_vocab() == TOKENIZER.get_vocab()
    assert found.digest == hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
    assert not found.model.training
    weights = found.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_sizes_of_the_recipe_are_those_of_the_model(model: CaptionModel) -> None:
    assert (model.encoder.output.tokens, model.encoder.levels) == (17, 2)
    assert (model.decoder.vocab_size, model.decoder.image.channels) == (9, 32)


def test_half_precision_halves_the_file_and_loads_as_float32(
    tmp_path: Path, saved: Path, model: CaptionModel, recipe: Recipe
) -> None:
    save_model(tmp_path / "half", model.state_dict(), TOKENIZER, recipe, {}, half=True)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (saved, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    weights = load_checkpoint(tmp_path / "half").model.state_dict()
    assert all(torch.equal(weights[name], value.half().float()) for name, value in model.state_dict().items())


def test_a_failure_while_writing_leaves_the_older_one(
    saved: Path, model: CaptionModel, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*facts: object) -> None:
        raise OSError("no space left on device")

    before = (saved / "model.safetensors").read_bytes()
    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_model(saved, model.state_dict(), TOKENIZER, recipe, {"passes": 4})
    assert (saved / "model.safetensors").read_bytes() == before
    assert load_checkpoint(saved).training == {"passes": 3}


def test_a_newer_one_replaces_the_older_whole(saved: Path, model: CaptionModel, recipe: Recipe) -> None:
    (saved / "left over").write_text("from before")
    save_model(saved, model.state_dict(), TOKENIZER, recipe, {"passes": 4})
    assert load_checkpoint(saved).training == {"passes": 4}
    assert sorted(file.name for file in saved.iterdir()) == [
        "checkpoint.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert [item.name for item in saved.parent.iterdir()] == ["best"]


def test_a_kill_between_the_two_renames_is_mended(saved: Path) -> None:
    """The older directory is out of the way already and the new one not yet in its place."""
    saved.rename(saved.with_name("best.old"))
    recover_directory(saved)
    assert load_checkpoint(saved).training == {"passes": 3}


def test_recovery_leaves_a_whole_directory_alone(saved: Path) -> None:
    older = saved.with_name("best.old")
    older.mkdir()
    recover_directory(saved)
    assert load_checkpoint(saved).training == {"passes": 3}


@pytest.mark.parametrize("name", ["checkpoint.json", "model.safetensors", "tokenizer.json"])
def test_a_directory_without_one_of_the_files_is_no_checkpoint(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=rf"not a checkpoint; .*found no {name}.*kiloword train"):
        load_checkpoint(saved)


def test_a_path_that_is_no_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            load_checkpoint(path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", "7"])
def test_facts_that_are_none(saved: Path, content: str) -> None:
    (saved / "checkpoint.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: not a checkpoint"):
        load_checkpoint(saved)


def test_another_version(saved: Path) -> None:
    change_facts(saved, format_version=2)
    with pytest.raises(
        CheckpointError, match=r"another version; expected format_version 1, found 2\. Try: pip"
    ):
        load_checkpoint(saved)


def change_facts(directory: Path, **changes: object) -> None:
    file = directory / "checkpoint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["cut", "replaced"])
def test_damaged_files(saved: Path, name: str, damage: str) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2] if damage == "cut" else b"something else")
    with pytest.raises(CheckpointError, match="best: damaged checkpoint"):
        load_checkpoint(saved)


@pytest.mark.parametrize("changes", [{"recipe": {"name": "x"}}, {"recipe": None}])
def test_a_recipe_that_is_none(saved: Path, changes: dict[str, object]) -> None:
    change_facts(saved, **changes)
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        load_checkpoint(saved)


def test_facts_that_lack_a_part(saved: Path) -> None:
    file = saved / "checkpoint.json"
    facts = json.loads(file.read_text())
    for key in ("recipe", "training"):
        file.write_text(json.dumps({name: value for name, value in facts.items() if name != key}))
        with pytest.raises(CheckpointError, match=key):
            load_checkpoint(saved)


def test_weights_of_another_size(saved: Path, recipe: Recipe) -> None:
    table = recipe.as_table()
    table["decoder"]["depth"] = 3
    change_facts(saved, recipe=table)
    with pytest.raises(CheckpointError, match=r"weights do not fit the recipe.*blocks\.2"):
        load_checkpoint(saved)


def test_resume_state_round_trip(tmp_path: Path) -> None:
    """Numbers of one element and minus infinity are among what a run saves."""
    tensors = {"a": torch.arange(6.0).view(2, 3).t(), "step": torch.tensor(3.0)}
    save_resume(tmp_path / "resume", tensors, {"best": float("-inf")})
    found = load_resume(tmp_path / "resume")
    assert found is not None
    assert all(torch.equal(found[0][name], value) for name, value in tensors.items())
    assert found[1] == {"best": float("-inf")}


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert load_resume(tmp_path / "resume") is None


@pytest.mark.parametrize("name", ["resume.json", "resume.safetensors"])
def test_a_damaged_resume_state(tmp_path: Path, name: str) -> None:
    save_resume(tmp_path / "resume", {"a": torch.zeros(9)}, {"position": 1})
    (tmp_path / "resume" / name).write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"resume: cannot be resumed: .*another folder"):
        load_resume(tmp_path / "resume")


def test_a_restored_optimizer_goes_on_as_the_first() -> None:
    """Two steps, then two more: with the same weights and gradients, restored and undisturbed agree."""

    def start() -> tuple[Tensor, torch.optim.AdamW]:
        weight = torch.ones(3, requires_grad=True)
        return weight, torch.optim.AdamW([{"params": [weight], "lr": 0.1, "peak_rate": 0.1}])

    def steps(weight: Tensor, optimizer: torch.optim.Optimizer, first: int) -> None:
        for step in (first, first + 1):
            weight.grad = torch.tensor([1.0, -2.0, 3.0]) * (step + 1)
            optimizer.step()

    weight, optimizer = start()
    steps(weight, optimizer, 0)
    stored, halfway = optimizer_tensors(optimizer), weight.detach().clone()
    assert all(name.startswith("optimizer.0.") for name in stored)
    stored = {name: value.clone() for name, value in stored.items()}
    steps(weight, optimizer, 2)
    other, restored = start()
    with torch.no_grad():
        other.copy_(halfway)
    load_optimizer(restored, {**stored, "model.weight": torch.zeros(3)})
    steps(other, restored, 2)
    assert torch.equal(other, weight)
    assert restored.param_groups[0]["peak_rate"] == 0.1
