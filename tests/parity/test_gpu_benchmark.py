"""The GPU benchmark's three contestants write the same captions; run on the processor, in small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from benchmarks.gpu import main
from tests.checkpoints import export_tiny_checkpoint

pytestmark = [pytest.mark.parity, pytest.mark.slow]


def test_it_runs_on_a_processor(tmp_path: Path) -> None:
    """fp32 on both sides: the captions of torch and of the bundle are the same, token by token."""
    made = export_tiny_checkpoint(tmp_path / "made")
    output = tmp_path / "gpu.json"
    arguments = ["--device", "cpu", "--bundle", str(made.fp32), "--no-compile", "--rounds", "2"]
    arguments += ["--checkpoint", str(made.checkpoint), "--output", str(output)]
    done = CliRunner().invoke(main, [*arguments, "--batch-size", "1", "--batch-size", "3"])
    assert done.exit_code == 0, done.output
    rows = json.loads(output.read_text("utf-8"))["measurements"]
    found = [(row["variant"], row["batch_size"]) for row in rows]
    assert found == [("kiloword", 1), ("torch eager", 1), ("kiloword", 3), ("torch eager", 3)]
    assert all(row["same_captions_as_kiloword"] == 1.0 for row in rows)
    assert all(row["photos_per_s"] > 0 for row in rows)
