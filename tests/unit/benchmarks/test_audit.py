"""The audit's benchmark: three ways of decoding in one file, without photos or places of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from benchmarks import audit
from tests.bundles import make_tiny_bundle


def test_a_run_writes_each_wording(tmp_path: Path, photos: Path) -> None:
    """A tiny bundle on two photos, of a man and of a woman by their references."""
    lines = [
        {"file_name": str(photos / name), "captions": [caption], "split": "test"}
        for name, caption in (("photographer.jpg", "A man."), ("officer.jpg", "A woman."))
    ]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    bundle, output, page = make_tiny_bundle(tmp_path / "b"), tmp_path / "result.json", tmp_path / "page.html"
    arguments = [
        str(tmp_path),
        "--bundle",
        str(bundle.directory),
        "--output",
        str(output),
        "--page",
        str(page),
    ]
    done = CliRunner().invoke(audit.main, arguments)
    assert done.exit_code == 0, done.output
    rows = json.loads(output.read_text())["measurements"]
    assert [row["name"] for row in rows] == list(audit.wordings())
    assert all(row["error_rate"]["of"] == 2 and "photos" not in row for row in rows)
    assert all(row["women_called_men"]["of"] == row["men_called_women"]["of"] == 1 for row in rows)
    assert all(row["error_rate"]["count"] == 0 for row in rows[1:])
    assert "no man" in done.output
    assert page.read_text().startswith("<!doctype html>")
    assert str(photos) not in output.read_text()
