"""How many threads this process may use: what it is allowed, not what the machine has.

A container with a limit of two cores on a machine of 64 that starts 64 threads is slower than with one
(microsoft/onnxruntime#8313), so the affinity mask and the control group's quota both count.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

MOST_DEFAULT_THREADS = 8
"""A photo is a billion multiplications: with more, threads wait for each other more than they work."""

MOST_THREADS = 1024
"""More than any machine has; onnxruntime would start as many as it is told to."""

_ROOT = Path("/")


def available_cpus(root: Path = _ROOT) -> int:
    """Count the processors that this process may use.

    Args:
        root: Where ``proc`` and ``sys`` are mounted; tests point it at made files.

    Returns:
        The smaller of the affinity mask's size and the control group's quota rounded up; at least 1.
    """
    allowed = affinity_cpus()
    quota = cgroup_quota(root)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def default_threads() -> int:
    """Threads that a session takes when nobody says how many."""
    return min(available_cpus(), MOST_DEFAULT_THREADS)


def cgroup_quota(root: Path = _ROOT) -> float | None:
    """Read how many processors the control group allows, as in containers.

    A group's limit holds for all groups below it, so every ancestor is read and the smallest limit counts.

    Args:
        root: Where ``proc`` and ``sys`` are mounted.

    Returns:
        Processors, such as 1.5; None where there is no limit or no control group.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (``cpu.max``) and
        https://docs.kernel.org/scheduler/sched-bwc.html (``cpu.cfs_quota_us``).
    """
    quotas = [_group_quota(folder) for folder in _group_folders(root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def affinity_cpus() -> int:
    """Count the processors that the affinity mask allows, or all where the system has none."""
    return len(allowed_cpu_numbers())


def allowed_cpu_numbers() -> list[int]:
    """The numbers of the processors that the affinity mask allows, or of all where the system has none."""
    if not hasattr(os, "sched_getaffinity"):  # macOS and Windows
        return list(range(os.cpu_count() or 1))
    return sorted(os.sched_getaffinity(0))


def powers_of_two(most: int) -> list[int]:
    """Numbers of threads or processes worth trying: 1, 2, 4, ... and the most.

    >>> powers_of_two(6)
    [1, 2, 4, 6]
    """
    return sorted({min(1 << power, most) for power in range(most.bit_length() + 1)})


def _group_folders(root: Path) -> list[Path]:
    """The directories of this process's group and its ancestors, for version 1 and 2."""
    mount = root / "sys/fs/cgroup"
    folders = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 1 mounts each controller apart, under its own name or under that of the set it belongs to.
        tops = [mount / controllers, mount / "cpu"] if controllers else [mount]
        for top in tops:
            # Inside a container the group may be named as the host sees it: then only the mount exists.
            folders += [top, *_descend(top, group)]
    return folders


def _descend(top: Path, group: str) -> list[Path]:
    parts = [part for part in group.split("/") if part not in ("", "..")]
    return [top.joinpath(*parts[: depth + 1]) for depth in range(len(parts))]


def _group_quota(folder: Path) -> float | None:
    """The limit that one group sets, version 2 first; None where it sets none."""
    words = _read(folder / "cpu.max").split() or [
        *_read(folder / "cpu.cfs_quota_us").split(),
        *_read(folder / "cpu.cfs_period_us").split(),
    ]
    try:
        quota, period = (float(word) for word in words)
    except ValueError:  # "max", or nothing there
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
