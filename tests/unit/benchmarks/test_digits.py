"""What the reading benchmark counts, by hand."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks import digits
from tests.bundles import make_tiny_bundle


def test_grids_and_digits_that_are_right() -> None:
    """One of four grids is right; of 16 digits 4 + 3, for a reading of another length has none right."""
    found = digits.compare(["1 2 3 4", "1 2 3 5", "1 2 3", ""], ["1 2 3 4"] * 4)
    assert found == {"grids": 4, "exact_percent": 25.0, "digit_percent": 43.75, "wrong_length": 2}


def test_spaces_do_not_count() -> None:
    assert digits.compare(["3 1 4"], ["314"])["exact_percent"] == 100.0


def test_a_run_writes_every_bundle(tmp_path: Path, photos: Path) -> None:
    """A tiny bundle that knows no digits, on two photos: nothing is right, and the file says so."""
    names = [str(photos / name) for name in ("cat.jpg", "coffee.jpg")]
    lines = [{"file_name": name, "captions": ["1 2"], "split": "test"} for name in names]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    bundle, output = make_tiny_bundle(tmp_path / "bundle"), tmp_path / "result.json"
    arguments = ["--bundle", str(bundle.directory), "--data", str(tmp_path), "--output", str(output)]
    done = CliRunner().invoke(digits.main, arguments)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(output.read_text())["measurements"]
    assert (row["grids"], row["exact_percent"], row["precision"]) == (2, 0.0, "fp32")
    assert "0.00 % of 2 grids" in done.output


def test_without_a_bundle_it_is_misuse() -> None:
    assert CliRunner().invoke(digits.main, []).exit_code == 2
