"""Packed data: the same recipe finds in it what it found in the original, in files of limited size."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kiloword.cli import main
from kiloword.runtime.errors import ConfigError
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import ImageSpec
from kiloword.train.checkpoint import load_checkpoint
from kiloword.train.loop import train
from kiloword.train.material import load_captions
from kiloword.train.packed import pack, unpacked
from kiloword.train.recipe import DataRecipe, DataSet
from kiloword.train.recipe_file import load_recipe, recipe_from_table
from tests.shapes import make_shapes, tiny_recipe


def ignore(task: str, done: int, total: int) -> None:
    """No progress is shown."""


@pytest.fixture
def table(tmp_path: Path) -> dict[str, Any]:
    """The tiny recipe with noisy photos of 32 KB together, and encoder weights."""
    make_shapes(tmp_path / "shapes")
    random = np.random.default_rng(1)
    for photo in sorted((tmp_path / "shapes").glob("*.png")):
        noise = random.integers(0, 60, (32, 32, 3), np.uint8)
        Image.fromarray(np.asarray(Image.open(photo)) // 2 + noise).save(photo)
    table: dict[str, Any] = tiny_recipe(tmp_path)
    return table


@pytest.fixture
def packed(table: dict[str, Any], tmp_path: Path) -> Path:
    pack(recipe_from_table(table), tmp_path / "packed", part_bytes=12_000, progress=ignore)
    return tmp_path / "packed"


def data_of(packed: Path) -> DataRecipe:
    return DataRecipe((), (), root=str(packed), cache=str(packed.parent / "elsewhere"))


def test_photos_and_captions_come_back(table: dict[str, Any], packed: Path, tmp_path: Path) -> None:
    """Captions word for word; photos as the runtime would see them, but for what JPEG costs."""
    spec = ImageSpec(height=32, width=32)
    for split in ("train", "dev"):
        before, _ = load_captions(DataSet("shapes", split), recipe_from_table(table).data)
        after, faults = load_captions(DataSet("shapes", split), data_of(packed))
        assert not faults
        assert [record.captions for record in after] == [record.captions for record in before]
        for old, new in zip(before, after, strict=True):
            difference = load_image(new.image, spec).astype(int) - load_image(old.image, spec)
            assert np.abs(difference).mean() < 4


def test_no_part_is_larger_than_allowed(packed: Path) -> None:
    parts = sorted((packed / "shapes").glob("photos-*.zip"))
    assert len(parts) > 1
    assert all(part.stat().st_size <= 12_000 for part in parts)
    assert sum(len(zipfile.ZipFile(part).namelist()) for part in parts) == 24


def test_the_same_data_makes_the_same_files(table: dict[str, Any], packed: Path, tmp_path: Path) -> None:
    pack(recipe_from_table(table), tmp_path / "again", part_bytes=12_000, progress=ignore)
    for file in (packed / "shapes").iterdir():
        assert (tmp_path / "again" / "shapes" / file.name).read_bytes() == file.read_bytes()


def test_weights_and_sentences_travel_along(table: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "published.safetensors").write_bytes(b"weights")
    (tmp_path / "text.txt").write_bytes(b"A red circle.")
    table["encoder"]["weights"] = "published.safetensors"
    table["concepts"] = {"sentences": "text.txt"}
    table["stages"][0] |= {"concepts": 1.0}
    pack(recipe_from_table(table), tmp_path / "packed", progress=ignore)
    assert (tmp_path / "packed" / "published.safetensors").read_bytes() == b"weights"
    assert (tmp_path / "packed" / "text.txt").read_bytes() == b"A red circle."


def test_a_source_that_is_a_file_keeps_its_name(table: dict[str, Any], tmp_path: Path) -> None:
    for part in ("train", "validation"):
        table["data"][part] = [{"source": "shapes/captions.jsonl"}]
    pack(recipe_from_table(table), tmp_path / "packed", progress=ignore)
    found, _ = load_captions(DataSet("shapes/captions.jsonl"), data_of(tmp_path / "packed"))
    assert len(found) == 24


def test_a_damaged_part_is_refused(packed: Path, tmp_path: Path) -> None:
    part = packed / "shapes" / "photos-001.zip"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"photos-001\.zip.*damaged"):
        unpacked(packed / "shapes", tmp_path / "elsewhere")
    part.unlink()
    with pytest.raises(ConfigError, match=r"lacks photos-001\.zip"):
        unpacked(packed / "shapes", tmp_path / "elsewhere")
    assert not list((tmp_path / "elsewhere").glob("unpacked-????????????????"))


@pytest.mark.parametrize("name", ["../000001.jpg", "/tmp/000001.jpg", "captions.jsonl"])
def test_a_part_cannot_write_anywhere_else(packed: Path, tmp_path: Path, name: str) -> None:
    """A stranger's part with a hash that is right."""
    from hashlib import sha256

    part = packed / "shapes" / "photos-000.zip"
    with zipfile.ZipFile(part, "w") as file:
        file.writestr(name, b"evil")
    facts = json.loads((packed / "shapes" / "pack.json").read_text())
    facts["files"] = {"photos-000.zip": sha256(part.read_bytes()).hexdigest()}
    (packed / "shapes" / "pack.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match="may not hold"):
        unpacked(packed / "shapes", tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("[]", "not packed data"),
        ('{"format_version": 2, "files": {}}', "version 2, expected 1"),
        ('{"format_version": 1, "files": {"../x": ""}}', "has no file"),
    ],
)
def test_another_list_of_files_is_refused(packed: Path, tmp_path: Path, written: str, message: str) -> None:
    (packed / "shapes" / "pack.json").write_text(written)
    with pytest.raises(ConfigError, match=message):
        unpacked(packed / "shapes", tmp_path / "elsewhere")


def test_what_cannot_be_packed_is_refused(table: dict[str, Any], packed: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists already"):
        pack(recipe_from_table(table), packed, progress=ignore)
    table["data"]["validation"] = [{"source": "shapes"}]
    with pytest.raises(ConfigError, match="with a split and as a whole"):
        pack(recipe_from_table(table), tmp_path / "other", progress=ignore)
    table["data"]["train"] = [{"source": "../shapes", "split": "train"}]
    with pytest.raises(ConfigError, match=r"below data\.root"):
        pack(recipe_from_table(table), tmp_path / "other", progress=ignore)


CHILD = """
import json, sys
from pathlib import Path
from kiloword.train.loop import train
from kiloword.train.progress import Progress
from kiloword.train.recipe_file import recipe_from_table

class Told(Progress):
    def step(self, stage, done, total, loss, photos_per_second):
        print(done, flush=True)

train(recipe_from_table(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]), progress=Told())
"""


def test_a_run_on_time_from_packed_data_is_killed_resumed_and_exported(
    table: dict[str, Any], packed: Path, tmp_path: Path, repository: Path
) -> None:
    """The way of the GPU recipe, in small on a CPU; the original photos are gone."""
    from kiloword.export.export import export_bundle

    (tmp_path / "shapes").rename(tmp_path / "gone")
    table["data"] |= {"root": str(packed), "cache": str(tmp_path / "elsewhere")}
    table["stages"] = [stage | {"minutes": 0.01, "passes": 1000} for stage in table["stages"]]
    table["stages"].append(table["stages"][1] | {"samples": 2, "cross_entropy": 0.1})
    table["validation"] = {"checkpoint_minutes": 0.0}
    written = tmp_path / "recipe.json"
    written.write_text(json.dumps(table))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(written), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    with child.stdout as told:
        for line in told:
            if line.strip() == b"1":
                child.send_signal(signal.SIGKILL)
                break
    assert child.wait(timeout=60) == -signal.SIGKILL
    best = train(recipe_from_table(table), tmp_path / "run", resume=True)
    assert load_checkpoint(best).recipe.stages[2].minutes == 0.01
    bundles = export_bundle(best, tmp_path / "bundles")
    assert bundles


def test_the_recipe_for_a_gpu_says_nothing_impossible() -> None:
    recipe = load_recipe("gpu")
    assert recipe.problems() == []
    assert all(stage.minutes > 0 for stage in recipe.stages)
    assert sum(stage.minutes for stage in recipe.stages) <= 25


def test_the_command_packs(table: dict[str, Any], tmp_path: Path) -> None:
    data = json.dumps(table["data"]["train"]).replace(":", "=").replace('"source"', "source")
    recipe = tmp_path / "mine.toml"
    recipe.write_text('name = "mine"\nbase = "tiny"\n[encoder]\nimage_size = 32\n', encoding="utf-8")
    sets = [f"data.train={data}", f"data.validation={data}", f"data.root={json.dumps(str(tmp_path))}"]
    sets = [item.replace('"split"', "split") for item in sets]
    sets.append("encoder.weights='none.safetensors'")
    (tmp_path / "none.safetensors").write_bytes(b"")
    arguments = ["pack", str(recipe), "-o", str(tmp_path / "out"), "--part-mib", "1"]
    done = CliRunner().invoke(main, arguments + [part for item in sets for part in ("--set", item)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "shapes" / "photos-000.zip").is_file()
    again = CliRunner().invoke(main, arguments + [part for item in sets for part in ("--set", item)])
    assert again.exit_code == 1
    assert "exists already" in again.output
