"""Numbers are summarized as stated, and result files name no path of one machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.machine import REPOSITORY, command_line, quantile, shown_path, summarize, write_result
from benchmarks.speed import Variant, agreement, batches_of, measure
from kiloword.runtime.manifest import GenerationSettings

np = pytest.importorskip("numpy")


def test_quantiles_are_nearest_rank() -> None:
    """By hand: 20 samples, so 95 % is the 19th; the median is the mean of the middle two."""
    samples = [float(value) for value in range(1, 21)]
    assert quantile(samples, 0.95) == 19
    assert quantile(samples, 0.5) == 10.5
    assert quantile([3.0], 0.95) == 3
    assert summarize([3.0, 1.0, 2.0]) == {"median": 2.0, "p95": 3.0, "min": 1.0, "count": 3}


def test_agreement_counts_equal_captions() -> None:
    """Two of three are equal, token by token."""
    assert agreement([(1, 2), (3,), (4,)], [(1, 2), (3,), (4, 5)]) == pytest.approx(2 / 3, abs=1e-3)


def test_every_variant_sees_every_batch() -> None:
    """Seven rounds of three photos over five: photo numbers go around, and all variants get the same."""
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def variant(name: str) -> Variant:
        def generate(pixels, settings):
            seen[name].extend(pixels[:, 0].tolist())
            return [(1,)] * len(pixels)

        return Variant(name, generate)

    batches = batches_of([np.array([index]) for index in range(5)], 3, rounds=7)
    timings = measure([variant("a"), variant("b")], batches, GenerationSettings())
    assert [batch[:, 0].tolist() for batch in batches[:2]] == [[0, 1, 2], [3, 4, 0]]
    assert seen["a"] == seen["b"]
    assert len(timings["a"].samples) == len(timings["b"].samples) == 7
    assert len(timings["a"].tokens) == 21


def test_results_name_no_path_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are committed; an absolute path in one would be of use to nobody."""
    arguments = [
        "--bundle",
        str(REPOSITORY / "bundles" / "x"),
        "--output",
        str(tmp_path / "r.json"),
        "--runs",
        "3",
    ]
    monkeypatch.setattr(sys, "argv", [str(REPOSITORY / "benchmarks" / "cold_start.py"), *arguments])
    expected = "python -m benchmarks.cold_start --bundle bundles/x --output r.json --runs 3"
    assert command_line() == expected
    assert shown_path(tmp_path / "elsewhere") == "elsewhere"
    written = write_result("cold_start", {"runs": 3}, [{"program": "x"}], tmp_path / "r.json")
    text = written.read_text(encoding="utf-8")
    assert str(REPOSITORY) not in text
    assert str(tmp_path) not in text
    result = json.loads(text)
    assert result["command"] == expected
    assert result["machine"]["cpu_model"]
    assert result["versions"]["numpy"] == np.__version__
