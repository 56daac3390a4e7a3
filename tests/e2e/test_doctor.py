"""`kiloword doctor` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import make_tiny_bundle

pytestmark = pytest.mark.e2e


def doctor(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kiloword.cli", "doctor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=False)


def test_the_page(tmp_path: Path) -> None:
    """One page on stdout, what is being done on stderr; every provider is named."""
    make_tiny_bundle(tmp_path)
    done = doctor("--bundle", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) < 50
    labels = {line.split("  ")[0] for line in lines}
    assert {"processor", "instructions", "cores", "memory", "versions", "bundle", "verdict"} <= labels
    for provider in ("cpu", "cuda", "tensorrt", "openvino", "coreml", "directml"):
        assert any(line.startswith("provider") and f" {provider} " in line for line in lines)
    assert "hashes right" in done.stdout
    assert lines[-1].split() == ["verdict", "healthy"]
    assert "checking: providers" in done.stderr


def test_as_json(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path / "bundle")
    done = doctor("--bundle", tmp_path / "bundle", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["leak"]["captions"], facts["leak"]["leaks"]) == (200, False)
    assert facts["variants"]["fastest"]["directory"] == str(tmp_path / "bundle")
    assert facts["tuning"]["many_photos"]["threads"] >= 1
    assert facts["problems"] == []
    assert next(one["name"] for one in facts["providers"] if one["loads"]) == "cpu"


def test_what_must_be_mended(tmp_path: Path) -> None:
    """A graph of the bundle was changed: exit code 1, the file is named, and there is no traceback."""
    bundle = make_tiny_bundle(tmp_path)
    bundle.encoder_path.write_bytes(b"something else")
    done = doctor("--bundle", tmp_path)
    assert done.returncode == 1
    assert "encoder.onnx: was changed or damaged" in done.stdout
    assert "tried with the one in the package" in done.stdout
    assert any(line.split()[:2] == ["provider", "cpu"] for line in done.stdout.splitlines())
    assert "Traceback" not in done.stderr
