"""What all tests of training share."""

from __future__ import annotations

import importlib.util

import pytest


@pytest.fixture(autouse=True)
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than training here. `test_curves.py` draws, and so do runs that modules share."""
    if importlib.util.find_spec("torch") is not None:
        monkeypatch.setattr("kiloword.train.loop.draw_curves", lambda *facts: None)
