"""A tiny training on drawn shapes: it learns, is killed and goes on, and refuses what makes no sense."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kiloword.runtime.errors import ConfigError, ImageError, KilowordError
from kiloword.train.recipe import Recipe
from kiloword.train.recipe_file import recipe_from_table
from tests.shapes import make_shapes, tiny_recipe

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file

from kiloword.train.captions import TokenIds
from kiloword.train.checkpoint import build_model, load_checkpoint
from kiloword.train.journal import read_journal
from kiloword.train.loop import train
from kiloword.train.objectives import caption_loss
from kiloword.train.progress import Progress

# A child of its own, because SIGKILL is what resuming is for. It says when it has done a step, so that the
# test does not have to guess how fast the machine is.
CHILD = """
import json, sys
from pathlib import Path
from kiloword.train.loop import train
from kiloword.train.progress import Progress
from kiloword.train.recipe_file import recipe_from_table

class Told(Progress):
    def step(self, stage, done, total, loss, photos_per_second):
        print(stage.split(",")[0], done, flush=True)

recipe = recipe_from_table(json.loads(Path(sys.argv[1]).read_text()))
train(recipe, Path(sys.argv[2]), resume=False, progress=Told())
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shapes, shared by all tests: its cache of pixels and features is shared, too."""
    folder = tmp_path_factory.mktemp("training")
    make_shapes(folder / "shapes")
    return folder


@pytest.fixture(scope="module")
def finished(root: Path) -> Path:
    """The folder of a run that nothing disturbed."""
    output = root / "finished"
    assert train(recipe_of(tiny_recipe(root)), output) == output / "best"
    return output


@pytest.fixture
def threads() -> Iterator[None]:
    """Leaves torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def recipe_of(table: dict[str, Any]) -> Recipe:
    return recipe_from_table(table)


def lines_of(output: Path, key: str) -> list[dict[str, Any]]:
    return [line for line in read_journal(output / "metrics.jsonl") if key in line]


def test_both_stages_are_logged_step_by_step(finished: Path) -> None:
    """20 photos in batches of 8 are 3 steps a pass, 6 passes are 18 steps a stage."""
    steps = [(line["stage"], line["step"]) for line in lines_of(finished, "loss")]
    assert steps == [(stage, step) for stage in (0, 1) for step in range(1, 19)]
    validations = [(line["stage"], line["step"]) for line in lines_of(finished, "cider")]
    assert validations == [(0, 9), (0, 18), (1, 9), (1, 18)]


def test_the_loss_falls_a_long_way(finished: Path) -> None:
    """It starts near log(vocabulary), as guessing does; two kinds of sentences are soon known."""
    losses = [line["loss"] for line in lines_of(finished, "loss")]
    vocabulary = load_checkpoint(finished / "best").tokenizer.get_vocab_size()
    assert losses[0] == pytest.approx(math.log(vocabulary), rel=0.1)
    assert sum(losses[-3:]) / 3 < 0.6 * losses[0]


def test_the_rate_rises_and_falls_in_each_stage(finished: Path) -> None:
    rates = [line["learning_rate"] for line in lines_of(finished, "loss") if line["stage"] == 0]
    assert rates[0] == pytest.approx(5e-3 / 2)
    assert max(rates) == pytest.approx(5e-3)
    assert rates[-1] < 1e-4


def test_the_best_checkpoint_is_the_average_with_the_highest_cider(finished: Path) -> None:
    best = load_checkpoint(finished / "best")
    means = [line["cider"]["mean"] for line in lines_of(finished, "cider")]
    assert best.training["validation_cider"]["mean"] == max(means)
    assert best.training["validation_cider"] == {"shapes": max(means), "mean": max(means)}
    assert (best.training["photos"], best.training["captions"], best.training["unusable"]) == (20, 40, 0)
    assert best.recipe.name == "shapes"
    assert not best.model.training


def test_a_run_leaves_only_what_it_promises(finished: Path) -> None:
    assert sorted(item.name for item in finished.iterdir()) == [
        "best",
        "curves.png",
        "metrics.jsonl",
        "resume",
    ]
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_that_is_resumed_changes_nothing(root: Path, finished: Path) -> None:
    before = (finished / "metrics.jsonl").read_bytes()
    assert train(recipe_of(tiny_recipe(root)), finished, resume=True) == finished / "best"
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("kill_at", [("frozen encoder", 8), ("end to end", 5)])
def test_killed_and_resumed_equals_undisturbed_bit_for_bit(
    root: Path, finished: Path, kill_at: tuple[str, int], repository: Path
) -> None:
    """SIGKILL in the middle of a pass of either stage; expected is what the undisturbed run has."""
    output = root / f"killed in {kill_at[0]}"
    table = tiny_recipe(root)
    table["validation"]["checkpoint_minutes"] = 0.0  # a checkpoint after each step
    start_and_kill(table, output, kill_at, repository)
    assert len(lines_of(output, "loss")) < 36
    train(recipe_of(table), output, resume=True)
    assert lines_of(output, "loss") == lines_of(finished, "loss")
    assert lines_of(output, "cider") == lines_of(finished, "cider")
    for name in ("best/model.safetensors", "resume/resume.safetensors"):
        found, expected = load_file(output / name), load_file(finished / name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def start_and_kill(table: dict[str, Any], output: Path, kill_at: tuple[str, int], repository: Path) -> None:
    written = output.with_suffix(".json")
    written.write_text(json.dumps(table), encoding="utf-8")
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(written), str(output)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    stage, step = kill_at
    assert child.stdout is not None
    with child.stdout as told:
        for line in told:
            if line.split() == [*stage.split(), str(step)]:
                child.send_signal(signal.SIGKILL)
                break
        told.read()
    assert child.wait(timeout=60) == -signal.SIGKILL


def test_an_older_checkpoint_makes_the_same_steps_again(root: Path, finished: Path) -> None:
    """What was logged after the last checkpoint is dropped, not logged twice, and comes out the same."""
    output = root / "rewound"
    table = tiny_recipe(root)
    stopped = StopAt("frozen encoder", 13)
    with pytest.raises(KeyboardInterrupt):
        train(recipe_of(table), output, progress=stopped)
    assert len(lines_of(output, "loss")) == 13  # the last checkpoint is that of pass 4, step 12
    train(recipe_of(table), output, resume=True)
    assert read_journal(output / "metrics.jsonl") == read_journal(finished / "metrics.jsonl")


class StopAt(Progress):
    """Interrupts a run, as Ctrl+C does."""

    def __init__(self, stage: str, step: int) -> None:
        super().__init__()
        self._at = (stage, step)

    def step(self, stage: str, done: int, total: int, loss: float, photos_per_second: float) -> None:
        if (stage.split(",")[0], done) == self._at:
            raise KeyboardInterrupt


def test_a_run_that_was_interrupted_at_once_can_be_resumed(root: Path) -> None:
    """It used to take until the end of the first pass before there was anything to resume from."""
    output = root / "interrupted at once"
    with pytest.raises(KeyboardInterrupt):
        train(short_recipe(root), output, progress=StopAt("frozen encoder", 1))
    assert train(short_recipe(root), output, resume=True).is_dir()
    assert [line["step"] for line in lines_of(output, "loss")] == [1, 2, 3]


def short_recipe(root: Path, **changes: Any) -> Recipe:
    """One pass of one stage; changes name a section or a key of the recipe."""
    table = tiny_recipe(root)
    del table["stages"][1]
    table["stages"][0]["passes"] = 1
    for key, value in changes.items():
        table[key] = {**table[key], **value} if isinstance(value, dict) else value
    return recipe_of(table)


def test_a_folder_with_a_run_is_not_overwritten(root: Path, finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds a run already.*--resume"):
        train(recipe_of(tiny_recipe(root)), finished)


def test_a_folder_with_only_a_model_is_not_overwritten_either(root: Path, finished: Path) -> None:
    """People delete resume/, which is four times as large as the model."""
    output = root / "model only"
    output.mkdir()
    shutil.copytree(finished / "best", output / "best")
    with pytest.raises(ConfigError, match=r"holds a trained model already.*another folder"):
        train(recipe_of(tiny_recipe(root)), output)


def test_another_recipe_does_not_go_on_with_a_run(root: Path, finished: Path) -> None:
    table = tiny_recipe(root)
    table["stages"][1]["learning_rate"] = 1e-3
    with pytest.raises(ConfigError, match=r"another recipe.*--set"):
        train(recipe_of(table), finished, resume=True)


def test_nothing_to_resume(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run to resume.*without --resume"):
        train(recipe_of(tiny_recipe(root)), tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


def test_changed_data_does_not_go_on_with_a_run(tmp_path: Path) -> None:
    """Same recipe, other captions: token ids would mean other words."""
    captions = make_shapes(tmp_path / "shapes") / "captions.jsonl"
    train(short_recipe(tmp_path), tmp_path / "run")
    captions.write_text(captions.read_text().replace("blue", "azure"))
    with pytest.raises(ConfigError, match="the data changed since this run started"):
        train(short_recipe(tmp_path), tmp_path / "run", resume=True)


def test_a_run_that_did_not_note_its_data_goes_on(root: Path, finished: Path, tmp_path: Path) -> None:
    """Early runs wrote no hash of their data into resume.json."""
    shutil.copytree(finished, tmp_path / "old")
    file = tmp_path / "old" / "resume" / "resume.json"
    facts = json.loads(file.read_text())
    del facts["data"]
    file.write_text(json.dumps(facts))
    assert train(recipe_of(tiny_recipe(root)), tmp_path / "old", resume=True).is_dir()


def test_a_stage_that_gets_no_better_stops_early(root: Path) -> None:
    """Without a step that changes anything, the second validation is no better than the first."""
    table = tiny_recipe(root)
    for stage in table["stages"]:
        stage["learning_rate"] = stage["encoder_learning_rate"] = 1e-12
    table["validation"] = {"every_passes": 1, "patience": 2}
    output = root / "stopped early"
    train(recipe_of(table), output)
    passes = [(line["stage"], line["step"] // 3) for line in lines_of(output, "cider")]
    # The first validation is the best of all; two more end the first stage, two the second.
    assert passes == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]


class Clock:
    """Two seconds pass whenever somebody looks."""

    def __init__(self, start: float) -> None:
        self.now = start

    def monotonic(self) -> float:
        self.now += 2.0
        return self.now


def recipe_on_time(root: Path) -> Recipe:
    """One stage of a minute, with passes for days."""
    table = tiny_recipe(root)
    table["stages"] = [table["stages"][0] | {"passes": 100_000, "minutes": 1.0}]
    table["validation"] = {"every_passes": 100_000, "checkpoint_minutes": 0.0}
    return recipe_of(table)


def test_a_stage_of_a_minute_is_at_its_end_when_the_minute_is_over(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that the test turns: the rate has fallen, and the last weights are validated in mid-pass."""
    monkeypatch.setattr("kiloword.train.loop.time", Clock(1000.0))
    best = train(recipe_on_time(root), tmp_path / "run")
    rates = [line["learning_rate"] for line in lines_of(tmp_path / "run", "loss")]
    assert 5 < len(rates) < 30
    assert max(rates[:4]) > 0.8 * 5e-3
    assert rates[-1] < 0.1 * 5e-3
    assert rates[3:] == sorted(rates[3:], reverse=True)
    (judged,) = lines_of(tmp_path / "run", "cider")
    assert judged["step"] == len(rates)
    assert (best / "model.safetensors").is_file()


def test_a_stage_on_time_that_was_interrupted_has_only_the_rest_of_its_time(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kiloword.train.loop.time", Clock(1000.0))
    train(recipe_on_time(root), tmp_path / "whole")
    monkeypatch.setattr("kiloword.train.loop.time", Clock(1000.0))
    with pytest.raises(KeyboardInterrupt):
        train(recipe_on_time(root), tmp_path / "run", progress=StopAt("frozen encoder", 6))
    monkeypatch.setattr("kiloword.train.loop.time", Clock(0.0))  # another process, another clock
    train(recipe_on_time(root), tmp_path / "run", resume=True)
    whole, halves = (len(lines_of(tmp_path / name, "loss")) for name in ("whole", "run"))
    assert abs(whole - halves) <= 2
    with_loss = lines_of(tmp_path / "run", "loss")
    assert with_loss[-1]["learning_rate"] < 0.1 * 5e-3


def test_too_many_bad_captions_stop_the_run_before_it_starts(tmp_path: Path) -> None:
    folder = make_shapes(tmp_path / "shapes")
    for name in ("000.png", "001.png", "002.png"):
        (folder / name).unlink()
    with pytest.raises(ConfigError, match=r"6 of 40 captions cannot be used.*000\.png"):
        train(short_recipe(tmp_path), tmp_path / "run")
    assert train(short_recipe(tmp_path, data={"max_bad_fraction": 0.2}), tmp_path / "run").is_dir()
    assert load_checkpoint(tmp_path / "run" / "best").training["unusable"] == 3


def test_a_photo_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = make_shapes(tmp_path / "shapes")
    (folder / "003.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"003\.png"):
        train(short_recipe(tmp_path), tmp_path / "run")


def test_encoder_weights_are_loaded(root: Path, tmp_path: Path) -> None:
    """A stage that leaves the encoder alone must hand on the very weights of the file."""
    recipe = short_recipe(root)
    weights = build_model(recipe, 20).encoder.state_dict()
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, root / "encoder.safetensors")
    table = tiny_recipe(root)
    del table["stages"][1]
    table["stages"][0] |= {"passes": 1, "frozen_blocks": 2}
    table["encoder"]["weights"] = "encoder.safetensors"
    train(recipe_of(table), tmp_path / "run")
    learned = load_file(tmp_path / "run" / "best" / "model.safetensors")
    assert all(torch.equal(learned[f"encoder.{name}"], tensor + 0.01) for name, tensor in weights.items())


def test_weights_of_another_encoder_are_refused(root: Path, tmp_path: Path) -> None:
    save_file({"cls_token": torch.zeros(1, 1, 8), "fc": torch.zeros(2)}, root / "other.safetensors")
    recipe = short_recipe(root, encoder={"weights": "other.safetensors"})
    with pytest.raises(ConfigError) as caught:
        train(recipe, tmp_path / "run")
    assert "cls_token: expected shape (1, 1, 32), found (1, 1, 8)" in caught.value.problems
    assert "has fc, which this encoder does not" in caught.value.problems
    assert "lacks blocks.0.attn.qkv.weight" in caught.value.problems


@pytest.mark.parametrize("content", [None, b"no safetensors"])
def test_a_file_that_holds_no_weights_is_refused(root: Path, tmp_path: Path, content: bytes | None) -> None:
    weights = tmp_path / "weights.safetensors"
    if content is not None:
        weights.write_bytes(content)
    recipe = short_recipe(root, encoder={"weights": str(weights)})
    with pytest.raises(ConfigError, match=r"weights\.safetensors: encoder\.weights: not a safetensors file"):
        train(recipe, tmp_path / "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"torch finds no CUDA device.*--set device=cpu"):
        train(short_recipe(root, device="cuda"), tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run(root: Path, tmp_path: Path) -> None:
    """A huge rate makes huge weights, and these make inf - inf."""
    table = tiny_recipe(root)
    table["stages"][0] |= {"learning_rate": 1e30, "warmup_steps": 0}
    with pytest.raises(KilowordError, match=r"the loss is no number in step \d+ of stages\.0.*learning_rate"):
        train(recipe_of(table), tmp_path / "run")


def test_threads_are_those_of_the_recipe(root: Path, tmp_path: Path, threads: None) -> None:
    train(short_recipe(root, threads=2), tmp_path / "run")
    assert torch.get_num_threads() == 2


def test_loss_counts_neither_padding_nor_unknown_words() -> None:
    """Expected: the mean of -log p(next) over the other tokens, from a plain pass over each caption alone."""
    recipe = recipe_of(tiny_recipe(Path()))
    torch.manual_seed(3)
    model = build_model(recipe, 12).eval()
    ids = TokenIds(pad=0, bos=1, eos=2, unk=3)
    features = torch.randn(2, 17, 32)
    captions = [[[1, 5, 3, 6, 2], [1, 7, 2]], [[1, 8, 9, 2], [1, 3, 2]]]
    padded = torch.tensor([[ids + [0] * (5 - len(ids)) for ids in group] for group in captions])
    terms = []
    for picture, group in enumerate(captions):
        context = model.decoder.image_context(features[picture : picture + 1])
        for caption in group:
            hidden, _ = model.decoder(torch.tensor([caption[:-1]]), context)
            logprobs = model.decoder.logits(hidden)[0].log_softmax(-1)
            terms += [
                -logprobs[place, token].item() for place, token in enumerate(caption[1:]) if token != ids.unk
            ]
    loss = caption_loss(model, features, padded, ids, label_smoothing=0.0).item()
    assert loss == pytest.approx(sum(terms) / len(terms), rel=1e-5)
