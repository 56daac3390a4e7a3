"""What an import costs and shows."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kiloword

HEAVY = ("torch", "cv2", "onnx", "onnxruntime", "numpy", "PIL", "tokenizers", "transformers")


def modules_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after some code."""
    report = f"{code}\nimport sys; print('\\n'.join({{name.partition('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_import_is_light() -> None:
    """`import kiloword` alone loads nothing of what captioning needs."""
    assert not modules_after("import kiloword") & set(HEAVY)


def test_captioning_loads_only_what_it_needs() -> None:
    """Never torch, cv2 or onnx."""
    loaded = modules_after("import kiloword; kiloword.Captioner; kiloword.load_bundle; kiloword.ImageError")
    assert not loaded & {"torch", "cv2", "onnx", "transformers"}


def test_a_run_without_a_journal_does_not_wait_for_sqlite() -> None:
    """Nor for what draws a bar that nobody sees: `kiloword caption one.jpg` is to start quickly."""
    assert not modules_after("import kiloword.runtime.folder_run") & {"sqlite3", "rich"}


@pytest.mark.parametrize("name", kiloword.__all__)
def test_public_names(name: str) -> None:
    """Each name of `__all__` is there, says where it lives, and has a docstring."""
    value = getattr(kiloword, name)
    if name != "__version__":
        assert value.__module__.startswith("kiloword.runtime.")
        assert value.__doc__


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Capitoner'"):
        _ = kiloword.Capitoner


def test_dir_shows_the_public_names() -> None:
    assert dir(kiloword) == sorted(kiloword.__all__)
