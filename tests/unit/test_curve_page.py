"""docs/curve.png: its points are those of the result files, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.docs_scripts import load_docs_script

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def curve() -> ModuleType:
    return load_docs_script("curve")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (tmp_path / f"{name}-machine.json").write_text(json.dumps({"measurements": rows}), encoding="utf-8")

    sizes = {"fp32": (40.0, 30.0, 50.0), "int8": (10.0, 29.0, 25.0)}
    row = {
        precision: {"megabytes": size, "cider": cider, "ms_per_photo": time}
        for precision, (size, cider, time) in sizes.items()
    }
    write("captioners", [{"name": "table-show-tell", **row}])
    quality = [
        {
            "dataset": dataset,
            "bundle": "mine",
            "precision": "int8",
            "decode": {"num_beams": beams},
            "metrics": {"cider": 60.0 + beams},
        }
        for dataset in ("flickr8k-test", "coco-dev")
        for beams in (1, 5)
    ]
    write("quality", quality)
    timed = {"variant": "int8 bundle", "num_beams": 1, "size_bytes": 11_000_000}
    slow = {**timed, "batch_size": 8, "wall_ms": {"median": 9.0}}
    write("speed", [slow, {**timed, "batch_size": 1, "wall_ms": {"median": 20.0}}])
    return tmp_path


def test_points_are_those_of_the_results(curve: ModuleType, results: Path) -> None:
    """Five beams were not timed, and photos of another data set or in batches are another curve."""
    assert curve.points_of(results) == [
        curve.Point("show tell", "fp32", 1, 30.0, 40.0, 50.0),
        curve.Point("show tell", "int8", 1, 29.0, 10.0, 25.0),
        curve.Point("mine", "int8", 1, 61.0, 11.0, 20.0),
    ]


def test_the_picture_is_drawn(curve: ModuleType, results: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curve.draw(curve.points_of(results), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_result_is_named(curve: ModuleType, results: Path) -> None:
    (results / "speed-machine.json").unlink()
    with pytest.raises(SystemExit, match=r"benchmarks\.speed writes it"):
        curve.points_of(results)
