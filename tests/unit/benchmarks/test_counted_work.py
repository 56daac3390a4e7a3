"""Work per caption of the shipped bundle, counted: no more than when it was last looked at.

`python -m benchmarks.counted_work` shows what has changed and records it; who does so says why.
"""

from __future__ import annotations

import shutil

import pytest

from benchmarks.counted_work import calls_of, counted_work, grown, help_instructions, peak_bytes_of, recorded
from kiloword.runtime.bundle import load_bundle


@pytest.fixture(scope="module")
def found() -> dict[str, int]:
    return counted_work(load_bundle())


def test_nothing_has_grown(found: dict[str, int]) -> None:
    """Nodes, operations, bytes, Python's calls and memory; the counts are the same on every machine."""
    assert not grown(found, recorded())


def test_the_record_is_of_today(found: dict[str, int]) -> None:
    """A record far above the truth would let work creep in: a bundle that does less is recorded, too."""
    before = recorded()
    assert set(found) <= set(before)
    stale = [name for name, count in found.items() if count < 0.8 * before[name]]
    assert not stale, "record anew: python -m benchmarks.counted_work"


def test_growth_is_noticed(found: dict[str, int]) -> None:
    """A node more is too much; of Python's calls, which differ by version, 15 % are let through."""
    assert grown({**found, "token_nodes": recorded()["token_nodes"] + 1}, recorded())
    calls = recorded()["python_calls_token"]
    assert not grown({"python_calls_token": int(calls * 1.1)}, recorded())
    assert grown({"python_calls_token": int(calls * 1.3)}, recorded())


def test_calls_and_memory_by_hand() -> None:
    def work() -> int:
        return len(bytes(1_000_000)) + len("four")

    # work, bytes and twice len; calls from this side of the profiler are none.
    assert 3 <= calls_of(work) <= 5
    assert 1_000_000 <= peak_bytes_of(work) < 1_010_000


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
def test_help_imports_no_more() -> None:
    """Instructions of `kiloword --help`, counted by valgrind."""
    instructions = help_instructions()
    assert instructions is not None
    assert not grown({"instructions_help": instructions}, recorded())
