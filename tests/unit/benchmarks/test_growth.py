"""The benchmark of growth: more places change nothing of what was there; each folder is run three times."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnxruntime

from benchmarks import growth
from kiloword.runtime.bundle import load_bundle


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return growth.with_places(load_bundle(None), 65, tmp_path_factory.mktemp("longer"))


def _logits(graph: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(["logits"], feeds)[0]


def test_a_decoder_with_more_places_says_what_it_said(longer: Path) -> None:
    """The shipped decoder itself is the reference, at places that it has; it has 40, and ends there."""
    bundle = load_bundle(None)
    steps = growth._steps(bundle)
    assert np.array_equal(_logits(longer, steps[24]), _logits(bundle.decoder_path, steps[24]))
    with pytest.raises(Exception, match=r"(?i)index|bounds"):
        _logits(bundle.decoder_path, steps[48])
    assert np.isfinite(_logits(longer, steps[63])).all()


def test_attention_is_a_part_of_a_step(longer: Path) -> None:
    steps = growth._steps(load_bundle(None))
    assert list(steps) == [0, 8, 16, 24, 32, 40, 48, 56, 63]
    parts = growth.profiled_parts(longer, {length: steps[length] for length in (0, 63)}, 3)
    assert list(parts) == [0, 63]
    assert all(part > 0 for both in parts.values() for part in both)


def test_folders_are_kept_where_only_tokens_are_measured(tmp_path: Path) -> None:
    """Of a file that is not there, nothing."""
    result = tmp_path / "growth.json"
    assert growth.kept_rows(result) == []
    rows = [{"measurement": "folder", "known": 100}, {"measurement": "token", "ms": 1.0}]
    result.write_text(json.dumps({"measurements": rows}), "utf-8")
    assert growth.kept_rows(result) == rows[:1]


@pytest.mark.e2e
def test_a_folder_gets_new_photos_and_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three photos that are known; one more, then one and two more, in each of two rounds: eleven in all."""
    monkeypatch.setattr(growth, "NEW_PHOTOS", 2)
    (row,) = growth.folder_rows(tmp_path, [3], None, 2)
    assert (row["known"], row["new"], len(row["all_ms_per_new_photo"])) == (3, 2, 2)
    assert row["walk_s"] > 0
    lines = (tmp_path / "3.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 11
    assert sum("a photo with the number" in line for line in lines) == 3
