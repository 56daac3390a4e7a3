"""An encoder learns classes, from CIFAR-100's files or folders, and a captioner starts from it."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from kiloword.runtime.errors import ConfigError
from kiloword.train.captioning import CaptionTask
from kiloword.train.checkpoint import CheckpointError, load_checkpoint
from kiloword.train.journal import read_journal
from kiloword.train.labels import load_labelled
from kiloword.train.loop import train
from kiloword.train.recipe_file import recipe_from_table
from tests.shapes import COLOURS, SHAPES, draw_shape, make_shapes, tiny_recipe
from tests.unit.train.test_loop import StopAt


def shape_pixels(count: int, first: int = 0) -> tuple[np.ndarray, list[int]]:
    """Pictures (count, 32, 32, 3) of shapes in turn, in all colours and places."""
    colours, pictures, labels = list(COLOURS), [], []
    for number in range(first, first + count):
        label = number % len(SHAPES)
        place = {"left": (number * 3) % 11, "top": (number * 7) % 11}
        picture = draw_shape(colours[number // 3 % 4], SHAPES[label], **place)
        pictures.append(np.asarray(picture))
        labels.append(label)
    return np.stack(pictures), labels


def write_cifar(folder: Path) -> Path:
    """CIFAR-100's python files as its page describes them: rows of 1024 red, 1024 green, 1024 blue bytes."""
    folder.mkdir()
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [name.encode() for name in SHAPES]}, 2))
    for split, count in (("train", 36), ("test", 12)):
        pixels, labels = shape_pixels(count, first=0 if split == "train" else 100)
        rows = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2).reshape(count, -1))
        content = {b"data": rows, b"fine_labels": labels, b"coarse_labels": labels, b"batch_label": split}
        (folder / split).write_bytes(pickle.dumps(content, 2))
    return folder


def write_folders(folder: Path) -> Path:
    for split, count in (("train", 36), ("val", 12)):
        for number, (pixels, label) in enumerate(zip(*shape_pixels(count), strict=True)):
            place = folder / split / SHAPES[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classification")
    write_cifar(folder / "cifar-100-python")
    write_folders(folder / "folders")
    make_shapes(folder / "shapes")
    return folder


def class_table(root: Path, source: str = "cifar-100-python", judged: str = "test") -> dict[str, Any]:
    table = tiny_recipe(root)
    del table["stages"][0]
    table["task"] = "classification"
    table["data"]["train"] = [{"source": source, "split": "train"}]
    table["data"]["validation"] = [{"source": source, "split": judged}]
    table["augmentation"] = {"colour": 0.1, "crop": 1.0}
    rates = {"learning_rate": 3e-3, "encoder_learning_rate": 3e-3}
    table["stages"][0] |= {"passes": 20, "layer_decay": 1.0, "label_smoothing": 0.0, **rates}
    table["validation"] = {"every_passes": 5}
    return table


@pytest.fixture(scope="module")
def learned(root: Path) -> Path:
    """The folder of a run on CIFAR's files."""
    train(recipe_from_table(class_table(root)), root / "learned")
    return root / "learned"


def test_cifars_files_become_pictures(root: Path) -> None:
    found = load_labelled(root / "cifar-100-python", "test")
    pixels, labels = shape_pixels(12, first=100)
    assert found.classes == SHAPES
    assert found.labels.tolist() == labels
    assert found.pixels is not None
    np.testing.assert_array_equal(found.pixels, pixels)


def test_folders_become_pictures(root: Path) -> None:
    found = load_labelled(root / "folders", "train")
    assert found.classes == tuple(sorted(SHAPES))
    assert found.files is not None
    assert len(found.files) == 36
    assert all(
        file.parent.name == found.classes[label]
        for file, label in zip(found.files, found.labels, strict=True)
    )
    assert load_labelled(root / "folders" / "val", None).classes == tuple(sorted(SHAPES))


def test_the_loss_falls_and_accuracy_chooses_the_best(learned: Path) -> None:
    journal = read_journal(learned / "metrics.jsonl")
    losses = [line["loss"] for line in journal if "loss" in line]
    accuracies = [line["accuracy"]["mean"] for line in journal if "accuracy" in line]
    facts = json.loads((learned / "best" / "checkpoint.json").read_text())["training"]
    assert losses[0] == pytest.approx(math.log(3), rel=0.05)
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]
    assert facts["validation_accuracy"]["mean"] == max(accuracies) > 50
    assert facts["classes"] == list(SHAPES)
    assert not (learned / "best" / "tokenizer.json").exists()


def test_a_folder_for_each_class_trains_with_frozen_blocks_too(root: Path, tmp_path: Path) -> None:
    table = class_table(root, "folders", "val")
    table["stages"][0] |= {"passes": 2, "frozen_blocks": 1}
    train(recipe_from_table(table), tmp_path / "run")
    assert len([line for line in read_journal(tmp_path / "run" / "metrics.jsonl") if "loss" in line]) == 10


def test_a_captioner_starts_from_its_encoder(root: Path, learned: Path) -> None:
    recipe = recipe_from_table({**tiny_recipe(root), "start": str(learned / "best")})
    task = CaptionTask(recipe, torch.device("cpu"), lambda *facts: None)
    torch.manual_seed(recipe.seed)
    state = task.build_model().state_dict()
    given = load_file(learned / "best" / "model.safetensors")
    encoder = {name for name in given if name.startswith("encoder.")}
    assert encoder == {name for name in state if name.startswith("encoder.")}
    assert all(torch.equal(state[name], given[name]) for name in encoder)
    assert {name for name in given if name.startswith("head.")}


def test_a_captioner_of_larger_pictures_resamples_positions(root: Path, learned: Path) -> None:
    """4 x 4 patches become 6 x 6; expected: torch's own resampling of each channel. The class token stays."""
    table = {**tiny_recipe(root), "start": str(learned / "best")}
    table["encoder"]["image_size"] = 48
    task = CaptionTask(recipe_from_table(table), torch.device("cpu"), lambda *facts: None)
    found = task.build_model().state_dict()["encoder.pos_embed"]
    given = load_file(learned / "best" / "model.safetensors")["encoder.pos_embed"]
    assert found.shape == (1, 37, 32)
    assert torch.equal(found[:, 0], given[:, 0])
    grid = given[0, 1:].t().reshape(1, 32, 4, 4)
    resampled = F.interpolate(grid, (6, 6), mode="bicubic", align_corners=False)
    assert torch.allclose(found[0, 1:], resampled[0].flatten(1).t(), atol=1e-6)


def test_interrupted_and_resumed_equals_undisturbed(root: Path, learned: Path, tmp_path: Path) -> None:
    recipe = recipe_from_table(class_table(root))
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", progress=StopAt("end to end", 38))
    train(recipe, tmp_path / "run", resume=True)
    assert read_journal(tmp_path / "run" / "metrics.jsonl") == read_journal(learned / "metrics.jsonl")


def test_pictures_of_another_size_are_resized(root: Path, tmp_path: Path) -> None:
    table = class_table(root)
    table["encoder"] |= {"image_size": 48}
    table["stages"][0] |= {"passes": 1}
    assert train(recipe_from_table(table), tmp_path / "run").is_dir()


def test_it_writes_no_captions(learned: Path) -> None:
    with pytest.raises(CheckpointError, match=r"of task classification writes no captions.*start = "):
        load_checkpoint(learned / "best")


def replace(folder: Path, name: str, **changes: Any) -> None:
    """Changes entries of one of CIFAR's files; None takes one out."""
    content = pickle.loads((folder / name).read_bytes()) | {
        key.encode(): value for key, value in changes.items()
    }
    kept = {key: value for key, value in content.items() if value is not None}
    (folder / name).write_bytes(pickle.dumps(kept, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "expected CIFAR-100's 'data', found .*fine_labels"),
        ({"data": np.zeros((36, 3071), np.uint8)}, r"data: expected uint8 \(pictures, 3072\), found uint8"),
        ({"data": [1, 2]}, "data: expected uint8 .* found list"),
        ({"fine_labels": [0] * 35}, "35 labels for 36 pictures of 3 classes"),
        ({"fine_labels": [3] * 36}, "fine_labels: expected one for each picture"),
        ({"fine_labels": ["a"] * 36}, "fine_labels: expected a list of whole numbers"),
    ],
)
def test_what_is_wrong_with_cifars_files(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_cifar(tmp_path / "cifar")
    replace(folder, "train", **changes)
    with pytest.raises(ConfigError, match=rf"cifar/train: .*{message}"):
        load_labelled(folder, "train")


def test_what_is_wrong_with_folders(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected cifar-100-python/ or a folder"):
        load_labelled(tmp_path / "nowhere", None)
    with pytest.raises(ConfigError, match="splits train and test, not 'dev'"):
        load_labelled(root / "cifar-100-python", "dev")
    with pytest.raises(ConfigError, match="no split 'test'; its splits are train, val"):
        load_labelled(root / "folders", "test")
    with pytest.raises(ConfigError, match="no split None; its splits are train, val"):
        load_labelled(root / "folders", None)
    (tmp_path / "one" / "cats").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "one" / "cats" / "a.png")
    with pytest.raises(ConfigError, match="two or more classes, found 1"):
        load_labelled(tmp_path / "one", None)


def test_a_validation_class_that_training_lacks(root: Path, tmp_path: Path) -> None:
    (tmp_path / "val").symlink_to(root / "folders" / "val")
    folder = tmp_path / "train"
    for name in ("circle", "square"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(folder / name / "a.png")
    table = class_table(tmp_path, ".", "val")
    with pytest.raises(ConfigError, match="classes that training does not have: triangle"):
        train(recipe_from_table(table), tmp_path / "run")
