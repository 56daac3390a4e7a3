"""What else runs the same weights, and how fast: the rivals on docs/BENCHMARKS.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmark_tables import Result, table

_TARGETS = {
    ("transformers eager", 1, 1): "4.3x, 5x",
    ("transformers eager", 1, 4): "6.2x, 7x",
    ("transformers eager", 8, 1): "3.7x",
    ("optimum int8", 1, 1): "2.2x, 3x",
    ("optimum int8", 1, 4): "3.8x, 4.5x",
    ("optimum int8", 8, 1): "2.7x",
}
"""By how much int8 was to be faster than a rival, with so many photos at once and beams."""
_OURS = "kiloword int8"
_DRAFTED = "kiloword int8, draft"
_RIVALS = ("transformers eager", "optimum int8")
_TIMED = ["", "batch", "beams", "median for a photo", "p95"]


def same_weights(result: Result | None) -> Iterator[str]:
    """The shipped bundle, fp32 and torch eager, in one process."""
    if result is None:
        return
    yield from ("## The same weights elsewhere", "")
    rows = []
    for row in result["measurements"]:
        ours = row["times_as_fast_as"].get("int8 bundle")
        rows.append([*_timed(row), "" if ours is None else f"{1 / ours:.2f}x"])
    yield from table([*_TIMED, "int8 is faster by"], rows)
    yield ""


def compiled(result: Result | None) -> Iterator[str]:
    """What the GPU benchmark finds when it runs on a processor: the rival that `speed` lacks."""
    if result is None:
        return
    rows = [
        [
            row["variant"],
            str(row["batch_size"]),
            f"{row['photos_per_s']:.1f}",
            f"{row['kiloword_times_as_fast']:.2f}x",
            f"{row['same_captions_as_kiloword']:.0%}",
        ]
        for row in result["measurements"]
    ]
    yield "`python -m benchmarks.gpu --device cpu`, greedy, one thread, the int8 bundle and fp32 in torch:"
    yield ""
    yield from table(["", "batch", "photos/s", "kiloword is faster by", "same captions"], rows)
    yield ""


def openvino(result: Result | None) -> Iterator[str]:
    """The shipped bundle beside OpenVINO, in an environment of its own."""
    if result is None:
        return
    rows = [
        [
            *_timed(row),
            *(
                ("", "")
                if row["variant"] == _OURS
                else (f"{1 / row['times_as_fast_as'][_OURS]:.2f}x", f"{row['same_captions_as'][_OURS]:.0%}")
            ),
            f"{row['load_and_first_encode_ms'] / 1e3:.2f} s",
            f"{row['peak_rss_bytes'] / 1e6:.0f} MB",
        ]
        for row in result["measurements"]
    ]
    packages = " and ".join(result["settings"]["peers"])
    yield f"`python -m benchmarks.peers`: the same search over graphs in {packages}, in its own environment:"
    yield ""
    heads = [*_TIMED, "kiloword is faster by", "same captions", "loaded, first photo encoded", "memory"]
    yield from table(heads, rows)
    yield ""


def imported(result: Result | None) -> Iterator[str]:
    """A large captioner of transformers, in kiloword and in its rivals' own environments."""
    if result is None:
        return
    settings, versions = result["settings"], f"torch {result['versions']['torch']}"
    if settings["optimum_versions"] is not None:
        rival = settings["optimum_versions"]
        versions += f"; optimum-onnx {rival['optimum-onnx']} with transformers {rival['transformers']}"
    yield from ("## An imported captioner: ViT-B/16 and GPT-2 small", "")
    yield (
        f"`python -m benchmarks.imported --with-optimum`, last measured {result['date']}: "
        f"{settings['max_new_tokens']} tokens for each picture, threads: {settings['threads']}, each "
        f"contestant a process of its own in its own environment ({versions}). int8 is "
        f"`kiloword import --quantize {settings['int8']['recipe']}`. Of two targets the first was set for "
        "the import, the second for speed."
    )
    yield ""
    yield from table(
        [*_TIMED, "int8 is faster by", "target", "memory"],
        [_imported_row(row, result) for row in sorted(result["measurements"], key=_case)],
    )
    yield ""
    starts: dict[str, list[float]] = {}
    for row in result["measurements"]:
        if row["variant"] != _DRAFTED:  # which looks into the package's bundle, too
            starts.setdefault(row["variant"], []).append(row["load_and_first_encode_ms"] / 1e3)
    loads = {name: statistics.median(seconds) for name, seconds in starts.items()}
    listed = ", ".join(f"{name} {loads[name]:.2g} s" for name in sorted(loads, key=lambda name: loads[name]))
    yield f"Loaded, and a first picture encoded: {listed}."
    yield ""
    for row in result["measurements"]:
        if row["variant"] == _DRAFTED:
            ratios = [f"{row['times_as_fast_as'][name]:.2f}x {name}" for name in _RIVALS]
            yield (
                f"With a draft: {' and '.join(ratios)}. These random weights repeat themselves as no trained "
                "captioner does, and a table counted on them would guess nearly all. So guesses are right by "
                "lot, as often as those of the bundle in the package."
            )
            yield ""


def optimum_fp32(result: Result | None) -> Iterator[str]:
    """What optimum exports, without its int8, from a run of its own."""
    if result is None:
        return
    rows = [row for row in result["measurements"] if row["variant"] == "optimum fp32"]
    ours = {
        _case(row)[:2]: row["wall_ms"]["median"] for row in result["measurements"] if row["variant"] == _OURS
    }
    listed = "; ".join(
        f"{row['wall_ms']['median']:.0f} ms (batch {row['batch_size']}, beams {row['num_beams']}), where "
        f"int8 took {ours[_case(row)[:2]]:.0f} ({_times_as_fast(row, result):.2f}x)"
        for row in rows
    )
    yield f"optimum before its int8 (`--with-optimum-fp32`, another run): {listed}."
    yield ""


def imported_targets(result: Result) -> Iterator[list[str]]:
    """By how much int8 was to be faster than each rival, greedy and with 4 beams, and by how much it is."""
    drafted = [row for row in result["measurements"] if row["variant"] == _DRAFTED]
    for rival in _RIVALS:
        cases = [(rival, 1, beams) for beams in (1, 4)]
        rows = {(row["variant"], *_case(row)[:2]): row for row in result["measurements"]}
        if all(case in rows for case in cases):
            ratios = [_times_as_fast(rows[case], result) for case in cases]
            targets = [_TARGETS[case].split(", ")[-1] for case in cases]
            found = ", ".join("" if ratio is None else f"{ratio:.2f}x" for ratio in ratios)
            for row in drafted:
                found += f"; greedy with a draft {row['times_as_fast_as'][rival]:.2f}x"
            yield [f"ViT-B/16 + GPT-2 over {rival}, greedy and 4 beams", ", ".join(targets), found]


def _timed(row: Result, digits: int = 1) -> list[str]:
    """Who took how long for what: the columns `_TIMED`."""
    times = [f"{row['wall_ms'][name]:.{digits}f} ms" for name in ("median", "p95")]
    return [row["variant"], str(row["batch_size"]), str(row["num_beams"]), *times]


def _case(row: Result) -> tuple[int, int, float]:
    return row["batch_size"], row["num_beams"], row["wall_ms"]["median"]


def _times_as_fast(row: Result, result: Result) -> float | None:
    """By how much int8 is faster than this contestant in this case."""
    for mine in result["measurements"]:
        is_ours = mine["variant"] == _OURS and _case(mine)[:2] == _case(row)[:2]
        if is_ours and row["variant"] in mine["times_as_fast_as"]:
            return float(mine["times_as_fast_as"][row["variant"]])
    # Measured with int8, but not in its last run.
    return 1 / row["times_as_fast_as"][_OURS] if _OURS in row["times_as_fast_as"] else None


def _imported_row(row: Result, result: Result) -> list[str]:
    ratio = _times_as_fast(row, result)
    return [
        *_timed(row, digits=0),
        "" if ratio is None else f"{ratio:.2f}x",
        _TARGETS.get((row["variant"], *_case(row)[:2]), ""),
        f"{row['peak_rss_bytes'] / 1e6:.0f} MB",
    ]
