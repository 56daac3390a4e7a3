"""Bundles that lie side by side, timed: which count, and which is called the fastest."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kiloword import Captioner, load_bundle
from kiloword.runtime.bundle import write_manifest
from kiloword.runtime.variants import try_variants
from tests.bundles import make_tiny_bundle


def renamed(directory: Path, **facts: Any) -> Path:
    """A tiny bundle with other facts in its manifest."""
    directory.mkdir()
    made = make_tiny_bundle(directory)
    write_manifest(directory, replace(made.manifest, **facts))
    return directory


def test_variants_beside_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision is made slow; what has another name, or is damaged, is no variant."""
    fp32 = renamed(tmp_path / "fp32")
    fp16 = renamed(tmp_path / "fp16", precision="fp16")
    renamed(tmp_path / "stranger", name="stranger")
    load_bundle(renamed(tmp_path / "damaged")).encoder_path.write_bytes(b"something else")
    real = Captioner.caption_pixels

    def slow(self: Captioner, *args: Any, **settings: Any) -> Any:
        if self.bundle.manifest.precision == "fp16":
            time.sleep(0.05)
        return real(self, *args, **settings)

    monkeypatch.setattr(Captioner, "caption_pixels", slow)
    found = try_variants(fp16, threads=1)
    assert [one.directory for one in found.measured] == [str(fp16), str(fp32)]
    assert found.fastest.precision == "fp32"
    assert (found.made_on, found.times_as_fast_there) == (None, None)


def test_the_bundle_in_the_package_stands_alone() -> None:
    """Nothing to compare with; what was measured where it was made is in its manifest."""
    bundle = load_bundle()
    found = try_variants(bundle.directory, threads=1)
    assert [one.directory for one in found.measured] == [str(bundle.directory)]
    quantization = bundle.manifest.quantization
    if quantization is not None:
        assert found.made_on == quantization.processor
        assert found.measured[0].recipe == quantization.recipe
