"""The benchmark of peers: its worker captions as the captioner does, whoever runs the graphs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("onnx")

from benchmarks import peers
from benchmarks.peers_worker import quantized_path
from kiloword import Captioner
from kiloword.runtime.bundle import DEFAULT_BUNDLE


@pytest.mark.e2e
def test_the_worker_captions_as_the_captioner_does() -> None:
    """Two example photos, with one beam and three; other contestants share all but what runs the graphs."""
    asked = [{"batch_size": 2, "num_beams": beams, "seed": 1} for beams in (1, 3)]
    done = subprocess.run(
        [sys.executable, str(peers.WORKER), "kiloword", str(DEFAULT_BUNDLE), "1"],
        input="".join(json.dumps(one) + "\n" for one in asked),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded, *answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert loaded["load_and_first_encode_ms"] > loaded["load_ms"] > 0
    photos = sorted(peers.PHOTOS.glob("*.jpg"))[1:3]
    with Captioner.load() as captioner:
        for answer, request in zip(answers, asked, strict=True):
            expected = [captioner.caption(path, num_beams=request["num_beams"]).token_ids for path in photos]
            assert [tuple(ids) for ids in answer["tokens"]] == expected


def test_quantized_graphs_lie_beside_their_bundle() -> None:
    """Where `make_bundles` makes room for them."""
    assert quantized_path(peers.BUNDLES / "fp32" / "encoder.onnx") == peers.BUNDLES / "fp32-nncf/encoder.xml"
