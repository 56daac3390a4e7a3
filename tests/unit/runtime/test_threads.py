"""Counting processors from made `/proc` and `/sys` files, as containers show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kiloword.runtime import threads


def make_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


V2 = {"proc/self/cgroup": "0::/user.slice/session\n"}
V1 = {"proc/self/cgroup": "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n"}
V1_FOLDER = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (V2, None),
        ({**V2, "sys/fs/cgroup/user.slice/session/cpu.max": "max 100000\n"}, None),
        ({**V2, "sys/fs/cgroup/user.slice/session/cpu.max": "150000 100000\n"}, 1.5),
        ({**V2, "sys/fs/cgroup/user.slice/cpu.max": "200000 100000\n"}, 2.0),
        ({**V2, "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3.0),
        ({"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3.0),
        (
            {
                **V1,
                f"{V1_FOLDER}/docker/abc/cpu.cfs_quota_us": "250000\n",
                f"{V1_FOLDER}/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        ({**V1, f"{V1_FOLDER}/cpu.cfs_quota_us": "-1\n", f"{V1_FOLDER}/cpu.cfs_period_us": "100000\n"}, None),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
            },
            2.0,
        ),
        ({**V2, "sys/fs/cgroup/cpu.max": "nonsense\n"}, None),
    ],
)
def test_cgroup_quota(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    """Expected values by hand: quota / period, of the tightest group on the way to the root."""
    assert threads.cgroup_quota(make_files(tmp_path, files)) == expected


def test_tightest_ancestor_counts(tmp_path: Path) -> None:
    """A group inside a tighter one has no more than that one."""
    files = {
        **V2,
        "sys/fs/cgroup/user.slice/cpu.max": "100000 100000\n",
        "sys/fs/cgroup/user.slice/session/cpu.max": "800000 100000\n",
    }
    assert threads.cgroup_quota(make_files(tmp_path, files)) == 1.0


@pytest.mark.parametrize(
    ("allowed", "cpu_max", "expected"),
    [(64, "max 100000", 64), (64, "150000 100000", 2), (1, "400000 100000", 1), (4, "10000 100000", 1)],
)
def test_available_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, cpu_max: str, expected: int
) -> None:
    """The smaller of both limits, rounded up, never 0."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    root = make_files(tmp_path, {**V2, "sys/fs/cgroup/cpu.max": cpu_max})
    assert threads.available_cpus(root) == expected


def test_without_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and Windows have no affinity mask in Python."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert threads.available_cpus(tmp_path) == 3


def test_default_threads_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cpus", lambda: 128)
    assert threads.default_threads() == threads.MOST_DEFAULT_THREADS


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_counts_to_try(most: int, counts: list[int]) -> None:
    assert threads.powers_of_two(most) == counts
