"""Does a photo take longer among many, or a word late in a caption?

    python -m benchmarks.growth DIR
    python -m benchmarks.growth DIR --prepare     only makes the folders: some minutes

A folder with a journal of 100, 1,000, 10,000 and 100,000 photos that are done gets some new ones, and the
same command runs again: what the new ones take apart from a look at the others, and from writing the output
anew, must not depend on how many those are. And the decoder reads one token after none, 8, 16, ... 63 others,
with as many places as that takes; onnxruntime's profiler says what of it is attention's, which reads more
with each.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from benchmarks.folder import OLD_NS, journal_folder, output_beside
from benchmarks.folder_photos import SIZE_SMALL, make_photos, photo_path
from benchmarks.machine import REPOSITORY, pin_to_cpus, result_path, write_result
from kiloword.runtime.bench.pictures import pixels_of
from kiloword.runtime.bench.steps import decoder_feeds
from kiloword.runtime.bench.timing import summarize, take_turns
from kiloword.runtime.bundle import Bundle, load_bundle
from kiloword.runtime.manifest import PAST_LENGTH_AXIS
from kiloword.runtime.sessions import load_sessions, session_options

SIZES = (100, 1000, 10_000, 100_000)
NEW_PHOTOS = 400
MOST_TOKENS = 64
LENGTHS = 9
"""Numbers of tokens before a step that are measured."""
ATTENTION = ("Attention", "Gather")
"""Operators whose work grows with the tokens before: the second one moves each beam's past to its place."""


class FolderRound(NamedTuple):
    """What runs over one folder took."""

    walk_s: float
    """All photos are done: the start of the process, and a look at each."""
    write_s: float
    """What one new photo adds: the output is written anew, all of it."""
    ms_per_new_photo: float
    """What each of many new ones adds to that."""


def folder_rows(root: Path, sizes: Sequence[int], bundle: Path | None, rounds: int) -> list[dict[str, Any]]:
    """What new photos take in folders of several sizes, in turns: some more in each round."""
    outputs = {known: prepare(root / f"{known}", known, bundle) for known in sizes}
    found: dict[int, list[FolderRound]] = {known: [] for known in sizes}
    for _ in range(rounds):
        for known, output in outputs.items():
            found[known].append(_folder_round(root / f"{known}", output, bundle))
    return [{"measurement": "folder", "known": known, **_folder_row(found[known])} for known in sizes]


def _folder_round(folder: Path, output: Path, bundle: Path | None) -> FolderRound:
    """Runs with no new photo, with one, and with many."""
    seconds = []
    for new in (0, 1, 1 + NEW_PHOTOS):
        _add_photos(folder, _lines(output), new)
        seconds.append(_seconds(folder, output, bundle))
    none, one, many = seconds
    return FolderRound(none, one - none, 1e3 * (many - one) / NEW_PHOTOS)


def _add_photos(folder: Path, known: int, new: int) -> None:
    """Some more photos, as old as the others: one that changed just now would be read twice."""
    make_photos(folder, known + new, SIZE_SMALL)
    for number in range(known, known + new):
        os.utime(photo_path(folder, number), ns=(OLD_NS, OLD_NS))


def _folder_row(rounds: Sequence[FolderRound]) -> dict[str, Any]:
    medians = {
        name: round(statistics.median(some), 3)
        for name, some in zip(FolderRound._fields, zip(*rounds, strict=True), strict=True)
    }
    return {"new": NEW_PHOTOS, **medians, "all_ms_per_new_photo": [round(one[2], 2) for one in rounds]}


def prepare(folder: Path, known: int, bundle: Path | None) -> Path:
    """A folder whose photos are all done, if it is not there yet; returns where their captions are."""
    output = folder.parent / f"{folder.name}.jsonl"
    if not output.exists() or _lines(output) < known:
        make_photos(folder, known, SIZE_SMALL)
        journal_folder(folder, output_beside(folder), bundle)
    _seconds(folder, output, bundle)
    return output


def _lines(output: Path) -> int:
    """The photos that are done."""
    with output.open("rb") as lines:
        return sum(1 for _ in lines)


def _seconds(folder: Path, output: Path, bundle: Path | None) -> float:
    """What `kiloword caption FOLDER -o OUTPUT` takes, its start included."""
    option = [] if bundle is None else ["--bundle", str(bundle)]
    command = [sys.executable, str(REPOSITORY / "cli.py"), "caption", str(folder), "-o", str(output), *option]
    began = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def token_rows(bundle: Bundle, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a step by how many tokens were read before, all of it and attention's part."""
    with tempfile.TemporaryDirectory() as folder:
        decoder = with_places(bundle, MOST_TOKENS + 1, Path(folder))
        given = _steps(bundle)
        options = session_options(1)
        session = onnxruntime.InferenceSession(decoder, options, providers=["CPUExecutionProvider"])
        runs = {
            length: lambda _turn, inputs=inputs: session.run(None, inputs) and None
            for length, inputs in given.items()
        }
        taken = take_turns(runs, rounds)
        profiled = profiled_parts(decoder, given, rounds)
    return [
        {
            "measurement": "token",
            "tokens_before": length,
            "ms": summarize(samples).median,
            "profiled_attention_us": profiled[length][0],
            "profiled_others_us": profiled[length][1],
        }
        for length, samples in taken.items()
    ]


def with_places(bundle: Bundle, places: int, folder: Path) -> Path:
    """The bundle's decoder with at least so many places: the same graph, its table of places repeated.

    What a step takes does not depend on what is in the table; captions would.
    """
    least = bundle.manifest.tokens.max_sequence_length
    if least is None or least >= places:
        return bundle.decoder_path
    model = onnx.load(bundle.decoder_path)
    tables = [one for one in model.graph.initializer if one.dims[:1] == [least] and len(one.dims) == 2]
    if not tables:
        raise click.ClickException(f"{bundle.decoder_path}: no table of {least} places")
    for table in tables:
        values = numpy_helper.to_array(table)
        longer = np.resize(values, (places, values.shape[1]))
        table.CopyFrom(numpy_helper.from_array(longer, table.name))
    onnx.save(model, folder / "decoder.onnx")
    return folder / "decoder.onnx"


def _steps(bundle: Bundle) -> dict[int, dict[str, Any]]:
    """The inputs of a greedy step after several numbers of tokens; keys and values of these are random."""
    sessions = load_sessions(bundle, "cpu", 1)
    pixels = pixels_of((), bundle.manifest.image)[0]
    greedy = replace(bundle.manifest.generation, num_beams=1)
    first, *_ = decoder_feeds(bundle, sessions.decoder, sessions.encoder.encode(pixels[None]), greedy)
    caches = bundle.manifest.decoder.inputs_of("cache")
    random = np.random.default_rng(0)

    def with_past(length: int) -> dict[str, Any]:
        shapes = {
            tensor.name: [1, *(length if axis == PAST_LENGTH_AXIS else int(axis) for axis in tensor.axes[1:])]
            for tensor in caches
        }
        past = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
        return {**first, **past}

    return {length: with_past(length) for length in range(0, MOST_TOKENS, MOST_TOKENS // (LENGTHS - 1))} | {
        MOST_TOKENS - 1: with_past(MOST_TOKENS - 1)
    }


def profiled_parts(
    decoder: Path, given: dict[int, dict[str, Any]], rounds: int
) -> dict[int, tuple[float, float]]:
    """Microseconds of a step in attention's nodes and in all others, by the tokens before; medians.

    The profiler takes its own time between nodes, so that a step is longer than without it.
    """
    options = session_options(1)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(decoder, options, providers=["CPUExecutionProvider"])
        for _turn, inputs in itertools.product(range(rounds), given.values()):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event for event in events if str(event.get("name")).endswith("_kernel_time")]
    count = len(nodes) // (rounds * len(given))
    found: dict[int, list[tuple[int, int]]] = {length: [] for length in given}
    for at, (_turn, length) in enumerate(itertools.product(range(rounds), given)):
        step = nodes[at * count : (at + 1) * count]
        attention = sum(node["dur"] for node in step if node["args"]["op_name"] in ATTENTION)
        found[length].append((attention, sum(node["dur"] for node in step) - attention))
    return {
        length: (statistics.median(one for one, _ in some), statistics.median(other for _, other in some))
        for length, some in found.items()
    }


def kept_rows(output: Path | None) -> list[dict[str, Any]]:
    """What an earlier run measured of folders."""
    path = output or result_path("growth")
    before = json.loads(path.read_text(encoding="utf-8"))["measurements"] if path.is_file() else []
    return [row for row in before if row["measurement"] == "folder"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--most", default=100_000, show_default=True, help="The largest folder.")
@click.option("--rounds", default=60, show_default=True, help="Steps of each length.")
@click.option("--folder-rounds", default=4, show_default=True, help="Runs over each folder.")
@click.option("--prepare", "only_prepare", is_flag=True, help="Make the folders, and measure nothing.")
@click.option("--tokens-only", is_flag=True, help="Keep what the result file has of folders.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle other than the one that ships.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    folder: Path,
    most: int,
    rounds: int,
    folder_rounds: int,
    only_prepare: bool,
    tokens_only: bool,
    bundle: Path | None,
    output: Path | None,
) -> None:
    """Measure growth; small photos are made in DIR, where they are not yet."""
    sizes = [known for known in SIZES if known <= most]
    if only_prepare:
        for known in sizes:
            prepare(folder / f"{known}", known, bundle)
        return
    rows = kept_rows(output) if tokens_only else folder_rows(folder, sizes, bundle, folder_rounds)
    pin_to_cpus(1)
    rows += token_rows(load_bundle(bundle), rounds)
    told = {"most": most, "rounds": rounds, "folder_rounds": folder_rounds}
    for row in rows:
        click.echo("  ".join(f"{name} {value}" for name, value in row.items()))
    click.echo(f"wrote {write_result('growth', told, rows, output)}", err=True)


if __name__ == "__main__":
    main()
