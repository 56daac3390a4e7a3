"""The picture of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from PIL import Image

from kiloword.train.curves import _series, _smoothed, draw_curves
from kiloword.train.tasks import Measure

CIDER = Measure("cider", "CIDEr", "nats per token")
LINES = [
    {"stage": 0, "step": 1, "loss": 4.0},
    {"stage": 0, "step": 2, "loss": 3.0},
    {"stage": 0, "step": 2, "cider": {"mine": 10.0, "mean": 10.0}},
    {"stage": 1, "step": 1, "loss": 2.0},
    {"stage": 1, "step": 1, "cider": {"mine": 20.0, "mean": 20.0}},
]


@pytest.mark.parametrize("count", [0, 2, 5])
def test_a_picture_of_any_run(tmp_path: Path, count: int) -> None:
    """Also of one that has no validation, or no step, yet."""
    journal = tmp_path / "metrics.jsonl"
    journal.write_text("".join(json.dumps(line) + "\n" for line in LINES[:count]))
    draw_curves(journal, tmp_path / "curves.png", CIDER)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (990, 396)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


def test_steps_are_counted_over_all_stages(tmp_path: Path) -> None:
    journal = tmp_path / "metrics.jsonl"
    journal.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    assert _series(journal, "cider") == (
        [4.0, 3.0, 2.0],
        [(2, {"mine": 10.0, "mean": 10.0}), (3, {"mine": 20.0, "mean": 20.0})],
    )


def test_the_average_starts_at_the_first_loss() -> None:
    assert _smoothed([4.0, 2.0], decay=0.5) == ([1, 2], [4.0, 3.0])
