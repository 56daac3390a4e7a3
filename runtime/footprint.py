"""What a bundle takes before its first caption: time to load and memory, in a process that does nothing else.

Run as a program, ``python -m kiloword.runtime.footprint BUNDLE``, it loads a bundle, captions a grey picture
and prints one line of JSON; `measure_footprint` starts that program and reads it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from kiloword.runtime.errors import KilowordError

_RUNS = 3
_MAXRSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # getrusage(2) of each system


@dataclass(frozen=True)
class Footprint:
    """What one bundle takes."""

    load_ms: float
    """From the bundle on disk to the first encoded picture; imports are not counted."""
    peak_rss_bytes: int | None
    """The most memory that the process held, Python included; None where the system does not tell."""


def measure_footprint(bundle: Path, runs: int = _RUNS) -> Footprint:
    """Load a bundle in fresh processes, on the processor with one thread.

    Args:
        bundle: Its directory.
        runs: Processes; the medians count.

    Raises:
        KilowordError: A process failed.
    """
    taken = [_measure_once(bundle) for _ in range(runs)]
    peaks = [one.peak_rss_bytes for one in taken if one.peak_rss_bytes is not None]
    return Footprint(median(one.load_ms for one in taken), int(median(peaks)) if peaks else None)


def _measure_once(bundle: Path) -> Footprint:
    command = [sys.executable, "-m", "kiloword.runtime.footprint", str(bundle)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise KilowordError("does not load in a process of its own", path=bundle, found=lines[-1])
    facts = json.loads(done.stdout.splitlines()[-1])
    return Footprint(float(facts["load_ms"]), facts["peak_rss_bytes"])


def own_peak_rss_bytes() -> int | None:
    """The most memory that this process has held so far.

    Linux's ``ru_maxrss`` counts the process that started this one, too, so its own record is read instead.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return _maxrss_bytes()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else _maxrss_bytes()


def _maxrss_bytes() -> int | None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT_BYTES


def _footprint_here(bundle: str) -> Footprint:
    """Load and caption in this very process."""
    import numpy as np

    from kiloword.runtime.bundle import loading_bundle
    from kiloword.runtime.generation import generate
    from kiloword.runtime.sessions import load_sessions

    started = time.perf_counter()
    with loading_bundle(bundle) as checked:
        sessions = load_sessions(checked, "cpu", 1)
    image = checked.manifest.image
    encoded = sessions.encoder.encode(np.full((1, image.height, image.width, 3), 128, np.uint8))
    load_ms = 1000 * (time.perf_counter() - started)
    generate(sessions.decoder, encoded, checked.manifest.tokens, checked.manifest.generation)
    return Footprint(round(load_ms, 2), own_peak_rss_bytes())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_footprint_here(sys.argv[1]))) + "\n")
