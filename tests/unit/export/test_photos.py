"""Which photos ranges are measured on."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from kiloword.export import photos as module
from kiloword.export.photos import calibration_photos
from kiloword.runtime.errors import ExportError
from kiloword.runtime.manifest import ImageSpec
from kiloword.train.recipe import DataSet, Recipe
from tests.checkpoints import RECIPE

SPEC = ImageSpec(height=32, width=32)


def make_photos(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (40, 30), (number % 256, 100, 100)).save(folder / f"{number:03d}.png")
    return folder


def recipe_with(root: Path, *sets: DataSet) -> Recipe:
    return replace(RECIPE, data=replace(RECIPE.data, root=str(root), train=sets))


def test_a_given_folder_goes_first(tmp_path: Path) -> None:
    """At most 48 of them, spread evenly: the first, the last, and none twice."""
    folder = make_photos(tmp_path / "mine", 120)
    found = calibration_photos(folder, RECIPE, SPEC)
    assert found.pixels.shape == (48, 32, 32, 3)
    reds = found.pixels[:, 0, 0, 0].tolist()
    assert (reds[0], reds[-1], len(set(reds))) == (0, 119, 48)
    assert found.source == "given photos"  # not the folder's name: bundles are published


def test_unreadable_photos_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_photos(tmp_path / "mine", 3)
    (folder / "001.png").write_bytes(b"no photo")
    with caplog.at_level(logging.WARNING, logger="kiloword"):
        found = calibration_photos(folder, RECIPE, SPEC)
    assert found.pixels[:, 0, 0, 0].tolist() == [0, 2]
    assert "001.png" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no photos in this folder"),
        ({"notes.txt": b"words"}, "no photos in this folder"),
        ({"a.jpg": b"", "b.png": b"no photo"}, "none of the photos can be read"),
    ],
)
def test_a_folder_without_photos(tmp_path: Path, content: dict[str, bytes], message: str) -> None:
    """A folder that was asked for is never replaced by other photos."""
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ExportError, match=message) as caught:
        calibration_photos(tmp_path, RECIPE, SPEC)
    assert caught.value.path == str(tmp_path)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no such folder.*found nothing"):
        calibration_photos(tmp_path / "missing", RECIPE, SPEC)
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"no such folder.*found a file"):
        calibration_photos(tmp_path / "file", RECIPE, SPEC)


def write_table(root: Path, *, missing: int) -> None:
    folder = make_photos(root / "set", 8)
    names = [f"{number:03d}.png" for number in range(8)]
    names[:missing] = [f"gone-{number}.png" for number in range(missing)]
    lines = [json.dumps({"file_name": name, "caption": "a photo"}) + "\n" for name in names]
    (folder / "captions.jsonl").write_text("".join(lines), encoding="utf-8")


def test_without_a_folder_the_training_photos(tmp_path: Path) -> None:
    write_table(tmp_path, missing=0)
    found = calibration_photos(None, recipe_with(tmp_path, DataSet("set")), SPEC)
    assert found.source == "training photos"
    assert found.pixels[:, 0, 0, 0].tolist() == list(range(8))


def test_training_data_may_be_as_bad_as_its_recipe_allows(tmp_path: Path) -> None:
    """The recipe's own limit counts: with another one, a run that trained could not be calibrated."""
    write_table(tmp_path, missing=2)
    strict = recipe_with(tmp_path, DataSet("set"))
    lenient = replace(strict, data=replace(strict.data, max_bad_fraction=0.5))
    assert calibration_photos(None, lenient, SPEC).source == "training photos"
    assert calibration_photos(None, strict, SPEC).source == "example photos and crops of them"


def test_without_training_data_the_examples_and_crops_of_them() -> None:
    """The repository carries 8 photos: these first, as they are, and random views of them up to 48."""
    found = calibration_photos(None, RECIPE, SPEC)
    assert found.source == "example photos and crops of them"
    assert found.pixels.shape == (48, 32, 32, 3)
    assert len(np.unique(found.pixels.reshape(48, -1), axis=0)) == 48


def test_without_any_photos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As when the package was installed from a wheel, which has no examples."""
    monkeypatch.setattr(module, "EXAMPLES", tmp_path / "none")
    with pytest.raises(ExportError, match=r"no photos.*--calibration FOLDER"):
        calibration_photos(None, RECIPE, SPEC)
