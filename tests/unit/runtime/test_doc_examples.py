"""The examples in the runtime's docstrings, run as they stand, with a tiny bundle in the default's place."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from kiloword import Bundle
from kiloword.runtime import bundle

MODULES = ("bundle", "captioner", "errors", "generation", "images", "schema")


@pytest.mark.parametrize("name", ["kiloword", *(f"kiloword.runtime.{name}" for name in MODULES)])
def test_examples(
    name: str, own_bundle: Bundle, photo_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every example gives what its docstring shows."""
    monkeypatch.setattr(bundle, "DEFAULT_BUNDLE", own_bundle.directory)
    (tmp_path / "cat.jpg").write_bytes(photo_bytes)
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
