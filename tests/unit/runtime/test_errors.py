"""The error tree and its one-line messages."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import kiloword
from kiloword.runtime import errors

ERRORS = [
    errors.BundleError("is missing", path=Path("a"), expected="x", found="y", hint="z"),
    errors.ConfigError(["one", "two"], path="recipe.toml", hint="read the docs"),
    errors.MissingDependencyError("opencv-python", "camera"),
]


def test_tree() -> None:
    """All derive from one base, and what the design draws as a branch is one."""
    names = [name for name in kiloword.__all__ if name.endswith("Error")]
    assert len(names) == 10
    assert all(issubclass(getattr(kiloword, name), errors.KilowordError) for name in names)
    assert issubclass(errors.ParityError, errors.ExportError)


def test_parts_that_are_unknown_leave_no_trace() -> None:
    assert str(errors.ImageError("is empty")) == "is empty"
    assert str(errors.ImageError("is empty", path="a.jpg")) == "a.jpg: is empty"
    assert str(errors.ImageError("is odd", found="7")) == "is odd; found 7"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_cross_processes(error: errors.KilowordError) -> None:
    """Workers send them back pickled; the message must survive."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
