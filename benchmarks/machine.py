"""What a number was measured on, and the file that keeps both together."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from kiloword.runtime.threads import affinity_cpus, allowed_cpu_numbers

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"

PACKAGES = ("kiloword", "onnxruntime", "numpy", "pillow", "tokenizers", "torch", "onnx")
# The instructions that decide how fast integer and float matrix products are.
INSTRUCTION_FLAGS = (
    "avx2",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)


def machine_facts() -> dict[str, Any]:
    """Describe this machine: processor, instructions, memory, system, and how busy it was."""
    cpuinfo = _read(Path("/proc/cpuinfo"))
    flags = set(re.findall(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)[:1])
    present = set(" ".join(flags).split())
    return {
        "cpu_model": _cpu_model(cpuinfo),
        "cpus_online": os.cpu_count(),
        "cpus_allowed": affinity_cpus(),
        "instructions": [flag for flag in INSTRUCTION_FLAGS if flag in present],
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit that is checked out, with `+changes` when tracked files differ from it; None outside git."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    return f"{commit}+changes" if _git("status", "--porcelain", "--untracked-files=no") else commit


def pin_to_cpus(count: int) -> None:
    """Keep this process on `count` processors, so that no library can take more threads than are stated."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, allowed_cpu_numbers()[:count])


def summarize(samples: Sequence[float]) -> dict[str, float | int]:
    """Median, 95th percentile (nearest rank), least and number of samples; milliseconds stay milliseconds."""
    ordered = sorted(samples)
    return {
        "median": round(quantile(ordered, 0.5), 3),
        "p95": round(quantile(ordered, 0.95), 3),
        "min": round(ordered[0], 3),
        "count": len(ordered),
    }


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """The nearest-rank quantile of sorted samples; for the median of an even number, the mean of both."""
    if fraction == 0.5 and len(ordered) % 2 == 0:
        return (ordered[len(ordered) // 2 - 1] + ordered[len(ordered) // 2]) / 2
    return ordered[math.ceil(fraction * len(ordered)) - 1]


def result_path(name: str) -> Path:
    """Where a benchmark's result for this machine is kept."""
    return RESULTS / f"{name}-{_slug(machine_facts()['cpu_model'])}.json"


def write_result(
    name: str, settings: Mapping[str, Any], measurements: Iterable[Mapping[str, Any]], output: Path | None
) -> Path:
    """Write one result file: what was measured, with which command, on what.

    Args:
        name: Which benchmark; the file is `<name>-<processor>.json` unless `output` says otherwise.
        settings: What the measurement was told to do.
        measurements: One flat record for each variant and case.
        output: The file to write; None for the usual one.

    Returns:
        The file that was written.
    """
    facts = machine_facts()
    path = output or result_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "benchmark": name,
        "command": command_line(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "git_commit": git_commit(),
        "machine": facts,
        "versions": versions(),
        "settings": dict(settings),
        "measurements": [dict(row) for row in measurements],
    }
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def command_line() -> str:
    """The command that this process was started with, as one would type it in the repository's root."""
    arguments = [_relative(argument) for argument in sys.argv[1:]]
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *arguments])


def shown_path(path: Path) -> str:
    """A path as results name it: relative to the repository's root, never one of a single machine."""
    resolved = path.resolve()
    return str(resolved.relative_to(REPOSITORY)) if resolved.is_relative_to(REPOSITORY) else resolved.name


def _relative(argument: str) -> str:
    return shown_path(Path(argument)) if os.path.isabs(argument) else argument


def _cpu_model(cpuinfo: str) -> str:
    names = re.findall(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return names[0].strip() if names else platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    total = re.search(r"^MemTotal:\s*(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    return int(total[1]) * 1024 if total else None


def _slug(text: str) -> str:
    """`Intel(R) Xeon(R) Processor @ 2.50GHz` -> `intel-xeon-2.50ghz`."""
    words = re.sub(r"\((?:r|tm)\)|\bcpu\b|\bprocessor\b", " ", text.lower())
    return re.sub(r"[^a-z0-9.]+", "-", words).strip("-")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, encoding="utf-8", check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
