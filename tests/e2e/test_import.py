"""`kiloword import` as a command, and the bundle that it writes in a process that has no torch loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxscript")

from tests import foreign

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

REPOSITORY = Path(__file__).resolve().parents[2]
PHOTO = REPOSITORY / "examples" / "photos" / "cat.jpg"


def kiloword(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "cli.py"), *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", timeout=900, check=False, env=environment
    )


def test_import_then_caption(tmp_path: Path) -> None:
    """stdout has the bundle's directory alone; stderr says what was proved; the caption is the bundle's."""
    checkpoint = foreign.make_git(tmp_path / "git-tiny", max_new_tokens=6)
    done = kiloword("import", str(checkpoint), "--pictures", "4", "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "out" / "fp32")]
    assert "tokens of 4 greedily and 4 with 4 beams" in done.stderr
    manifest = json.loads((tmp_path / "out" / "fp32" / "bundle.json").read_text(encoding="utf-8"))
    assert manifest["report"]["transformers"]["pictures"] == 4
    assert manifest["provenance"]["imported_from"] == "git-tiny"
    assert str(tmp_path) not in json.dumps(manifest)
    bundle = str(tmp_path / "out" / "fp32")
    shown = kiloword("caption", "--bundle", bundle, "--format", "jsonl", "--num-beams", "4", str(PHOTO))
    assert shown.returncode == 0, shown.stderr
    line = json.loads(shown.stdout)
    assert line["bundle"] == "git-tiny"
    assert line["caption"]


def test_what_is_unknown_is_one_line(tmp_path: Path) -> None:
    """Exit code 1, no traceback, and the list of what is known."""
    (tmp_path / "config.json").write_text('{"architectures": ["PaliGemmaForConditionalGeneration"]}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    done = kiloword("import", str(tmp_path), "-o", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Florence2ForConditionalGeneration" in done.stderr


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    """The hub's own library against a port of this machine where nobody listens."""
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "cache")}
    done = kiloword("import", "somebody/captioner", "-o", str(tmp_path / "out"), **nobody)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.strip().splitlines()) == 1
    assert "somebody/captioner: there is no such directory, and the hub could not be asked" in done.stderr
