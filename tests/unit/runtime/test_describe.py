"""`kiloword inspect`: all facts of a manifest in readable columns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from kiloword.runtime.describe import describe_bundle, flatten
from tests.bundles import make_tiny_bundle


def test_every_fact_is_there(tmp_path: Path) -> None:
    """The facts are those that tests/bundles.py wrote into the manifest."""
    bundle = make_tiny_bundle(tmp_path, name="tiny-test")
    manifest = dataclasses.replace(
        bundle.manifest, report={"quality": {"cider": 57.25}, "checked": ["cpu", "cuda"]}
    )
    text = describe_bundle(dataclasses.replace(bundle, manifest=manifest))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "name tiny-test" in lines
    assert "precision fp32" in lines
    assert "image 16 x 16, stretch, bicubic" in lines
    assert "num_beams 1" in lines
    assert "licence Apache-2.0" in lines
    assert "quality.cider 57.25" in lines
    assert "checked cpu, cuda" in lines
    for tensor in (*manifest.encoder.inputs, *manifest.decoder.inputs, *manifest.decoder.outputs):
        assert any(tensor.name in line and tensor.role in line for line in lines)
    for name in manifest.files:
        assert any(line.startswith(name) for line in lines)


def test_empty_report_has_no_heading(tmp_path: Path) -> None:
    assert "\nreport\n" not in describe_bundle(make_tiny_bundle(tmp_path))


def test_flatten_keeps_lists_and_order() -> None:
    assert list(flatten({"b": {"y": [1], "x": {"z": None}}, "a": 0}).items()) == [
        ("b.y", [1]),
        ("b.x.z", None),
        ("a", 0),
    ]
