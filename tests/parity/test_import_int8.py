"""int8 of imported bundles: each family's own graphs, and the gate that stands before them.

The checkpoints are tiny and made from a config; how fast they are says nothing, and no clock decides here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxscript")

from kiloword import Captioner, load_bundle
from kiloword.export.importing.bundle import Options, import_bundle
from kiloword.export.quantized import QualityLimits, QuantizeOptions
from kiloword.runtime.sessions import load_sessions
from tests import foreign
from tests.parity.test_import import FAMILIES

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

REPOSITORY = Path(__file__).resolve().parents[2]
ANY_SPEED = QualityLimits(min_times_as_fast=0, min_equal_words=0)
PIECES = 0.25
"""Share of an encoding that int8 may move: widths of 32 leave errors little to cancel out in."""


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_of_each_family(family: str, tmp_path: Path) -> None:
    """Every product of both graphs with a constant matrix is in int8, save patches that are convolutions;
    encodings and first logits are near those of fp32, and captions are written.
    """
    checkpoint = FAMILIES[family](tmp_path / "checkpoint")
    options = QuantizeOptions("static", limits=ANY_SPEED)
    fp32, int8 = import_bundle(str(checkpoint), tmp_path / "bundles", Options(options, pictures=2))
    spec = load_bundle(int8).manifest.quantization
    assert spec is not None
    assert not spec.forced
    for graph in ("encoder", "decoder"):
        exact, small = getattr(spec.fp32, graph), getattr(spec.chosen.figures, graph)
        convolutions = load_bundle(int8).manifest.provenance["quantization"]["convolutions_in_float32"]
        assert not exact.integer_operators
        assert sum(small.integer_operators.values()) >= 4
        assert small.float_products <= (convolutions if graph == "encoder" else 0)
    assert spec.chosen.batch_difference < 1e-3
    image = load_bundle(int8).manifest.image
    pixels = np.random.default_rng(3).integers(0, 256, (3, image.height, image.width, 3), dtype=np.uint8)
    results = [first_logits(path, pixels) for path in (fp32, int8)]
    for want, have in zip(*results, strict=True):
        assert 0 < np.linalg.norm(have - want) / np.linalg.norm(want) < PIECES
    with Captioner.load(int8, provider="cpu", threads=1) as captioner:
        assert all(one.token_ids for one in captioner.caption_pixels(pixels, num_beams=2))


def first_logits(path: Path, pixels: Any) -> list[Any]:
    """All that the encoder says of pictures, and the logits of the first word."""
    bundle = load_bundle(path)
    sessions = load_sessions(bundle, "cpu", 1)
    encoded = sessions.encoder.encode(pixels)
    count, decoder = len(pixels), sessions.decoder
    prompt = np.tile(np.array(bundle.manifest.tokens.prompt_token_ids), (count, 1, 1))
    state = decoder.initial_state(encoded, count)
    logits, _ = decoder.step(prompt, np.arange(count)[:, None], decoder.context(encoded), state)
    return [*encoded.values(), logits]


def kiloword(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "cli.py"), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", timeout=900, check=False, env={**os.environ}
    )


def test_what_is_slower_is_refused_and_force_says_so(tmp_path: Path) -> None:
    """Nothing is a thousand times as fast as fp32."""
    checkpoint, out = foreign.make_git(tmp_path / "git-tiny", max_new_tokens=6), tmp_path / "out"
    asked = ("import", checkpoint, "--pictures", "2", "--min-agreement", "0", "--min-speedup", "1000")
    refused = kiloword(*asked, "--quantize", "static", "-o", out)
    assert refused.returncode == 1
    assert (refused.stdout, load_bundle(out / "fp32").manifest.precision) == ("", "fp32")
    last = refused.stderr.strip().splitlines()[-1]
    assert "int8 is refused: static: it is too slow" in last
    assert "1000x or more is expected" in last
    assert not (out / "int8").exists()
    forced = kiloword(*asked, "--quantize", "static", "--force", "-o", out)
    assert forced.returncode == 0, forced.stderr
    assert forced.stdout.split() == [str(out / "fp32"), str(out / "int8")]
    assert "the gate refused this bundle" in forced.stderr
    manifest = json.loads((out / "int8" / "bundle.json").read_text(encoding="utf-8"))
    assert manifest["quantization"]["forced"]
    assert "too slow" in manifest["quantization"]["refused"][0]
    shown = kiloword("caption", "--bundle", out / "int8", REPOSITORY / "examples" / "photos" / "cat.jpg")
    assert shown.returncode == 0, shown.stderr
    assert "FORCED" in kiloword("inspect", out / "int8").stdout
