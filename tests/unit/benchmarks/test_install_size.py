"""What the core takes on disk: bytecode is counted where Python writes it, and no other."""

from __future__ import annotations

import pytest

from benchmarks import install_size


def test_the_core_is_what_is_asked_for_without_extras() -> None:
    """pyproject.toml names the first ones; the last ones belong to extras."""
    packages = install_size.core_packages()
    assert {"kiloword", "click", "numpy", "onnxruntime", "pillow", "rich", "tokenizers"} <= set(packages)
    assert not {"torch", "pytest", "starlette"} & set(packages)


@pytest.mark.e2e
def test_bytecode_of_what_captioning_imports() -> None:
    """A table of captions needs numpy and rich; no line of code is coloured, and nothing is downloaded."""
    found = install_size.bytecode_of_imports(["numpy", "rich", "pygments", "huggingface-hub"])
    assert (found["pygments"], found["huggingface-hub"]) == (0, 0)
    for package in ("numpy", "rich"):
        assert 0 < found[package] < install_size.size_of(package)[0]
    assert found["kiloword"] > 100_000
