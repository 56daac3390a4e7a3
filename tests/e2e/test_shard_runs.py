"""A shard captioned by the command: the same captions as from files, and a second run that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kiloword.cli import main
from tests.bundles import make_tiny_bundle
from tests.unit.runtime.test_shards import PHOTOS, make_tar

pytestmark = pytest.mark.e2e


def rows(*arguments: str | Path, code: int = 0) -> list[dict[str, Any]]:
    result = CliRunner().invoke(main, ["caption", *map(str, arguments), "--threads", "1"])
    assert result.exit_code == code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle")).directory


def test_a_shard_gives_what_its_files_give(tmp_path: Path, bundle: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, data in PHOTOS.items():
        (folder / name).write_bytes(data)
    shard = make_tar(tmp_path / "train.tar", **{"broken.jpg": b"no picture"})
    options = ("--bundle", bundle, "--format", "jsonl")
    of_files = [row["caption"] for row in rows(folder, *options)]
    *of_shard, broken = rows(shard, *options, code=1)
    assert [row["caption"] for row in of_shard] == of_files
    assert [row["path"] for row in of_shard] == [f"{shard}/{name}" for name in PHOTOS]
    assert broken["error"].startswith(f"{shard}/broken.jpg: is not a picture")


def test_a_second_run_goes_on(tmp_path: Path, bundle: Path) -> None:
    shard, output = make_tar(tmp_path / "train.tar"), tmp_path / "captions.jsonl"
    arguments = (shard, "--bundle", bundle, "-o", output)
    rows(*arguments)
    first = output.read_text()
    assert len(first.splitlines()) == len(PHOTOS)
    rows(*arguments)
    assert output.read_text() == first


def test_nothing_is_written_beside_photos_in_a_shard(tmp_path: Path, bundle: Path) -> None:
    """There is no such place; each photo gets a line that says so, and no traceback."""
    shard = make_tar(tmp_path / "train.tar")
    before = shard.read_bytes()
    options = ("--sidecar", "xmp", "--sidecar", "txt", "--embed", "--state", tmp_path / "journal")
    result = CliRunner().invoke(main, ["caption", str(shard), "--bundle", str(bundle), *map(str, options)])
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert shard.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "train.tar"]


def test_the_ray_engine_refuses_what_it_would_ignore(tmp_path: Path) -> None:
    arguments = [
        "caption",
        "x",
        "--engine",
        "ray",
        "--sidecar",
        "xmp",
        "--embed",
        "-o",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "--engine ray does not take --sidecar, --embed" in result.stderr
    result = CliRunner().invoke(main, ["caption", "x", "--engine", "ray", "--provider", "cpu", "-o", "out"])
    assert "--engine ray does not take --provider" in result.stderr
    result = CliRunner().invoke(main, ["caption", "x", "--engine", "ray"])
    assert "needs -o FOLDER" in result.stderr
