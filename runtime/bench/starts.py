"""Fresh processes: time from start to end, and memory; with files in the page cache and without.

Run as a program, ``python -m kiloword.runtime.bench.starts``, it reads what to start from stdin and prints
what was measured, both JSON. A process that starts another shares its memory with it for a moment, and the
system counts that as the other's: so who starts must be small, and nothing heavy is imported here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kiloword.runtime.bench.timing import Sample, Times, summarize
from kiloword.runtime.errors import KilowordError

_MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # getrusage(2) of each system


@dataclass(frozen=True)
class Start:
    """What one program took, over some fresh processes."""

    program: str
    cache: str
    """``warm``: files are in the page cache; ``cold``: they were dropped from it before."""
    ms: Times
    peak_rss_bytes: int
    """The most that any of them held at once."""


def programs(photo: str, bundle: Path | None) -> dict[str, list[str]]:
    """The programs that are started, by the name that results give them."""
    load = "" if bundle is None else repr(str(bundle))
    option = [] if bundle is None else ["--bundle", str(bundle)]
    command = [sys.executable, "-c", "from kiloword.cli import main; main(prog_name='kiloword')"]
    lines = f"from kiloword import Captioner; Captioner.load({load}).caption({photo!r})"
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "kiloword --help": [*command, "--help"],
        "Captioner.load().caption(photo)": [sys.executable, "-c", lines],
        "kiloword caption photo": [*command, "caption", photo, *option],
    }


def measure_starts(commands: Mapping[str, Sequence[str]], runs: int, *, cold: bool) -> list[Start]:
    """Start every program some times, in turns, from a small process.

    Args:
        commands: Command lines by name.
        runs: Processes of each that count; one before does not.
        cold: Drop what they read from the page cache before each start, as far as a user may.

    Raises:
        KilowordError: A program failed.
    """
    asked = json.dumps({"commands": dict(commands), "runs": runs, "cold": cold})
    module = [sys.executable, "-m", "kiloword.runtime.bench.starts"]
    done = subprocess.run(module, input=asked, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise KilowordError(
            "a program does not start", found=(done.stderr.strip().splitlines() or ["no message"])[-1]
        )
    return [Start(**{**one, "ms": Times(**one["ms"])}) for one in json.loads(done.stdout)]


def _measure_here(commands: Mapping[str, Sequence[str]], runs: int, *, cold: bool) -> list[Start]:
    taken: dict[str, list[tuple[Sample, int]]] = {name: [] for name in commands}
    files = loaded_files() if cold else []
    for turn in range(runs + 1):
        for name, command in commands.items():
            drop_from_cache(files)
            found = _start(command)
            if turn:
                taken[name].append(found)
    cache = "cold" if cold else "warm"
    return [
        Start(name, cache, summarize([sample for sample, _ in found]), max(peak for _, peak in found))
        for name, found in taken.items()
    ]


def loaded_files() -> list[Path]:
    """Files that a start reads: Python's own modules, and the installed packages that we use."""
    roots = {Path(os.__file__).resolve().parent}
    for name in ("kiloword", "numpy", "onnxruntime", "PIL", "tokenizers", "click"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).resolve().parent
            roots |= {folder, folder.with_name(f"{folder.name}.libs"), folder.with_name("pillow.libs")}
    endings = {".py", ".pyc", ".so", ".onnx", ".json"}
    return [
        path
        for root in sorted(roots)
        for path in root.rglob("*")
        if (path.suffix in endings or ".so." in path.name) and path.is_file()
    ]


def drop_from_cache(files: Sequence[Path]) -> None:
    """Ask the system to forget what it keeps of files; needs no rights, and none may be written just now.

    A library that a process still has loaded stays: then a cold start is warmer than on a machine just begun.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _start(command: Sequence[str]) -> tuple[Sample, int]:
    """Run one process to its end: its times, and its greatest memory."""
    # An installation has its bytecode; where a shell forbids writing it, compiling would be measured.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, encoding="utf-8"
    )
    stderr = child.stderr.read() if child.stderr else ""
    if not hasattr(os, "wait4"):  # Windows tells neither processor time nor memory of a child
        child.wait()
        wall_ms, cpu_ms, peak = 1e3 * (time.perf_counter() - began), 0.0, 0
    else:
        _, status, usage = os.wait4(child.pid, 0)
        wall_ms = 1e3 * (time.perf_counter() - began)
        child.returncode = os.waitstatus_to_exitcode(status)
        cpu_ms, peak = 1e3 * (usage.ru_utime + usage.ru_stime), usage.ru_maxrss * _MAXRSS_UNIT_BYTES
    if child.stderr:
        child.stderr.close()
    if child.returncode:
        raise KilowordError("does not start", found=(stderr.strip().splitlines() or ["no message"])[-1])
    return Sample(wall_ms, cpu_ms), peak


if __name__ == "__main__":
    sys.stdout.write(json.dumps([asdict(start) for start in _measure_here(**json.load(sys.stdin))]))
