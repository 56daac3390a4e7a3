"""docs/BENCHMARKS.md: its figures are those that docs/benchmarks.py takes from the newest results."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs_scripts import load_docs_script

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmarks() -> ModuleType:
    return load_docs_script("benchmarks")


def test_the_page_is_up_to_date(benchmarks: ModuleType) -> None:
    """Run `python docs/benchmarks.py` when this fails."""
    text = (REPOSITORY / "docs" / "BENCHMARKS.md").read_text("utf-8")
    assert text == benchmarks.page(text)


def test_the_newest_result_counts(
    benchmarks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its date, and not by its name; a benchmark that has not run leaves its part of the page out."""
    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path)
    for name, date in (("growth-a", "2026-02-01"), ("growth-b", "2026-01-01")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"date": date, "name": name}), "utf-8")
    assert benchmarks.newest("growth")["name"] == "growth-a"
    assert benchmarks.newest("speed") is None
    (tmp_path / "growth-a.json").unlink()
    (tmp_path / "growth-b.json").unlink()
    assert "## Ideas" in benchmarks.text()
    assert "## Growth" not in benchmarks.text()


def test_every_idea_says_all(benchmarks: ModuleType) -> None:
    """Predicted, measured and what became of it, each in a cell that a table can hold."""
    for idea in benchmarks.IDEAS:
        assert all(cell.strip() and "|" not in cell and "\n" not in cell for cell in idea), idea.name
        assert idea.verdict.split()[0].rstrip(":;") in {"kept", "dropped", "open", "not"}, idea.name


def _imported(variant: str, ms: float, ratios: dict[str, float]) -> dict[str, object]:
    return {
        "variant": variant,
        "batch_size": 1,
        "num_beams": 4,
        "wall_ms": {"median": ms, "p95": ms},
        "times_as_fast_as": ratios,
        "load_and_first_encode_ms": 1e3,
        "peak_rss_bytes": 5_000_000,
    }


def test_an_imported_captioner_stands_beside_its_rivals_and_targets(benchmarks: ModuleType) -> None:
    """The ratio of int8's own row; of a contestant that int8's last run left out, the reverse of its own."""
    result = {
        "date": "2026-01-01",
        "versions": {"torch": "2"},
        "settings": {
            "max_new_tokens": 16,
            "threads": 1,
            "int8": {"recipe": "static"},
            "optimum_versions": None,
        },
        "measurements": [
            _imported("transformers eager", 700.0, {"kiloword int8": 0.2}),
            _imported("kiloword fp32", 200.0, {"kiloword int8": 0.5}),
            _imported("kiloword int8", 100.0, {"transformers eager": 6.9}),
        ],
    }
    rows = [line for line in benchmarks.imported(result) if line.startswith("| ")]
    assert rows[2:] == [
        "| kiloword int8 | 1 | 4 | 100 ms | 100 ms |  |  | 5 MB |",
        "| kiloword fp32 | 1 | 4 | 200 ms | 200 ms | 2.00x |  | 5 MB |",
        "| transformers eager | 1 | 4 | 700 ms | 700 ms | 6.90x | 6.2x, 7x | 5 MB |",
    ]
