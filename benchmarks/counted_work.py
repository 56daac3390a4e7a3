"""What a caption costs in counts and not in time: the same on a busy machine and on an idle one.

    python -m benchmarks.counted_work

counts the nodes that onnxruntime runs for a photo and for a token of the shipped bundle, the operations and
bytes of its products, the calls that Python makes and the memory that it asks for, and writes
benchmarks/results/counted_work.json. `tests/unit/benchmarks/test_counted_work.py` fails when one of them
grows beyond what is recorded there and the slack that is written here: CI finds work that nobody noticed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import click

from benchmarks.machine import RESULTS, versions
from kiloword.runtime.bench.floor import NodeRun, nodes_of, work_of
from kiloword.runtime.bench.pictures import pixels_of
from kiloword.runtime.bench.steps import decoder_feeds, encoder_feeds
from kiloword.runtime.bundle import Bundle, load_bundle
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.sessions import load_sessions

TARGET = RESULTS / "counted_work.json"

SLACK = {"python": 1.15, "memory": 1.15, "instructions": 1.15}
"""Of counts that differ a little from one version of Python or numpy to another; all others are exact."""
_TOKENS = 8


def graph_counts(bundle: Bundle) -> dict[str, int]:
    """What onnxruntime runs for one photo and for one token."""
    sessions = load_sessions(bundle, "cpu", 1)
    (pixels, *_) = pixels_of((), bundle.manifest.image)
    greedy = replace(bundle.manifest.generation, num_beams=1)
    encoder = nodes_of(bundle.encoder_path, encoder_feeds(bundle, pixels))
    feeds = decoder_feeds(bundle, sessions.decoder, sessions.encoder.encode(pixels[None]), greedy)
    step = nodes_of(bundle.decoder_path, feeds[1])
    return {**_counts("encoder", encoder), **_counts("token", step)}


def _counts(prefix: str, nodes: list[NodeRun]) -> dict[str, int]:
    work = work_of(nodes)
    return {
        f"{prefix}_nodes": work.nodes,
        f"{prefix}_byte_operations": work.byte_operations,
        f"{prefix}_float_operations": work.float_operations,
        f"{prefix}_weight_bytes": work.weight_bytes,
        f"{prefix}_bytes_moved": work.bytes,
    }


def python_counts(bundle: Bundle) -> dict[str, int]:
    """Calls that Python makes, and memory that it and numpy ask for, while a photo is captioned."""
    captioner = Captioner.load(bundle.directory, provider="cpu", threads=1)
    pixels = pixels_of((), bundle.manifest.image)[0][None]

    def caption(tokens: int) -> Callable[[], object]:
        return lambda: captioner.caption_pixels(pixels, num_beams=1, max_new_tokens=tokens)

    for tokens in (1, _TOKENS):
        caption(tokens)()
    first, all_tokens = calls_of(caption(1)), calls_of(caption(_TOKENS))
    return {
        "python_calls_photo": first,
        "python_calls_token": round((all_tokens - first) / (_TOKENS - 1)),
        "memory_peak_bytes_photo": peak_bytes_of(caption(_TOKENS)),
    }


def calls_of(work: Callable[[], object]) -> int:
    """How many functions are called, those written in C among them."""
    count = 0

    def hear(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(hear)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def peak_bytes_of(work: Callable[[], object]) -> int:
    """The most that Python and numpy hold at once beyond what they held before."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def help_instructions() -> int | None:
    """Instructions of `kiloword --help`, which is all imports; None without valgrind."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return None
    tool = [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    program = [sys.executable, "-c", "from kiloword.cli import main; main(['--help'])"]
    with tempfile.TemporaryDirectory() as bytecode:
        # Whether modules were compiled before must not count, wherever this runs.
        variables = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
        subprocess.run(program, stdout=subprocess.DEVNULL, env=variables, check=True)
        command = [*tool, *program]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=variables, check=True)
    (line,) = (line for line in done.stderr.splitlines() if "Collected" in line)
    return int(line.rpartition(":")[2])


def counted_work(bundle: Bundle) -> dict[str, int]:
    """All counts but instructions."""
    return {**graph_counts(bundle), **python_counts(bundle)}


def grown(found: dict[str, int], recorded: dict[str, int]) -> list[str]:
    """One sentence for each count that is more than was recorded, slack included."""
    return [
        f"{name}: {count:,}, recorded were {recorded[name]:,}"
        for name, count in found.items()
        if count > recorded[name] * SLACK.get(name.partition("_")[0], 1.0)
    ]


def recorded(path: Path = TARGET) -> dict[str, int]:
    """The counts that were written last."""
    counts: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["counts"]
    return counts


@click.command()
def main() -> None:
    """Count, say what has grown, and write the counts down."""
    bundle = load_bundle()
    counts = counted_work(bundle)
    instructions = help_instructions()
    if instructions is not None:
        counts["instructions_help"] = instructions
    before = recorded() if TARGET.exists() else {}
    for name, count in counts.items():
        change = f"  {count / before[name] - 1:+.1%}" if before.get(name) else ""
        click.echo(f"{name:28}{count:>16,}{change}")
    facts: dict[str, Any] = {"versions": versions(), "bundle": bundle.name, "counts": counts}
    TARGET.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
