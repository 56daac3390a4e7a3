"""The allocator's setting does no harm, whatever the system."""

from __future__ import annotations

import ctypes
import sys

import pytest

from kiloword.train import memory


def test_elsewhere_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """musl has none."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False


def test_glibc_is_told_all_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers from malloc.h: M_TRIM_THRESHOLD -1, M_TOP_PAD -2, M_MMAP_MAX -4, M_ARENA_MAX -8."""
    told: dict[int, int] = {}

    class Library:
        def mallopt(self, name: int, value: int) -> int:
            told[name] = value
            return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    assert memory.keep_freed_memory() is True
    assert sorted(told) == [-8, -4, -2, -1]
