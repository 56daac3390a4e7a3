"""Writes docs/BENCHMARKS.md and its picture from the newest results of benchmarks/.

    make bench                    measures all of it, then runs this
    python docs/benchmarks.py     writes the page again

A test fails while the page is not what this computes from benchmarks/results/.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
sys.path.insert(0, str(DOCS))

from benchmark_ideas import IDEAS  # noqa: E402
from benchmark_peers import (  # noqa: E402
    compiled,
    imported,
    imported_targets,
    openvino,
    optimum_fp32,
    same_weights,
)
from benchmark_tables import Result, table  # noqa: E402

PAGE = DOCS / "BENCHMARKS.md"
PICTURE = DOCS / "benchmarks.png"
RESULTS = REPOSITORY / "benchmarks" / "results"
BEGIN = "<!-- From here on written by docs/benchmarks.py; change it and run it again. -->"
END = "<!-- Up to here. -->"
_SIZES = ("bytes", "bytecode_bytes", "imported_bytecode_bytes")


def newest(name: str) -> Result | None:
    """What a benchmark wrote last; None if it has not run."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob(f"{name}-*.json"))]
    return max(found, key=lambda result: str(result["date"]), default=None)


def text() -> str:
    """All that follows from the results, as Markdown."""
    parts = [
        *_machine(newest("this_machine")),
        *_targets(),
        *_photo(newest("this_machine")),
        *_starts(newest("this_machine")),
        *same_weights(newest("speed")),
        *compiled(newest("gpu_cpu")),
        *openvino(newest("peers")),
        *imported(newest("imported")),
        *optimum_fp32(newest("optimum_fp32")),
        *_draft(newest("draft")),
        *_growth(newest("growth")),
        *_size(newest("install_size")),
        *_ideas(),
        *_ways(newest("ways")),
    ]
    return "\n".join(parts)


def _machine(result: Result | None) -> Iterator[str]:
    if result is None:
        return
    facts, peaks = result["machine"], result["measurements"][0]["photo"]["peaks"]
    versions = result["versions"]
    yield (
        f"Measured {result['date']} on {facts['cpus_online']} cores of an {facts['cpu_model']} "
        f"({', '.join(facts['instructions'])}) with onnxruntime {versions['onnxruntime']}, numpy "
        f"{versions['numpy']} and Python {versions['python']}. A shared host: what is compared took turns, "
        "and single times may be half or twice as long in another hour."
    )
    yield ""
    yield (
        f"One core reached {peaks['float_gops']:.0f} GFLOP/s in products of floats and "
        f"{peaks['byte_gops']:.0f} GOP/s in products of bytes, and read {peaks['cache_gbps']:.0f} GB/s from "
        f"256 KiB, {peaks['model_gbps']:.0f} from 8 MiB and {peaks['memory_gbps']:.0f} from memory."
    )
    yield ""


def _targets() -> Iterator[str]:
    """What was to be reached, and what was measured last."""
    yield from ("## Targets", "")
    yield from table(["", "target", "measured"], list(_target_rows()))
    yield ""


def _target_rows() -> Iterator[list[str]]:
    bench, speed, sizes = newest("this_machine"), newest("speed"), newest("install_size")
    if bench is not None:
        found = bench["measurements"][0]
        cases = {(case["what"], case["threads"]): case for case in found["photo"]["cases"]}
        greedy, wide = cases["greedy", 1], cases["3 beams", 1]
        yield ["one photo, greedy, one thread", "15 ms", f"{greedy['ms']['median']:.1f} ms"]
        yield ["the same over its floor", "1.4x", f"{greedy['times_floor']:.2f}x"]
        ratio = wide["ms"]["median"] / greedy["ms"]["median"]
        yield ["3 beams over greedy", "1.6x", f"{ratio:.2f}x"]
        encoder = cases.get(("encoder", 2))
        if encoder is not None:
            yield ["two threads on one photo", "1.6x", f"{cases['greedy', 2]['times_one_thread']:.2f}x"]
        yield ["two processes", "1.9x one", f"{found['processes'][-1]['times_one']:.2f}x"]
        folder = found["folder"]
        share = f"{folder['photos_per_s']:.0f} photos/s, {folder['share_of_allowed']:.0%}"
        yield ["a folder of 12-megapixel JPEGs", "45 photos/s, or 95 % of what its parts allow", share]
        for program, target in (
            ("kiloword --help", "0.15 s"),
            ("Captioner.load().caption(photo)", "0.45 s, 120 MB"),
            ("kiloword caption photo", "0.6 s, 120 MB"),
        ):
            start = next(
                one for one in found["starts"] if one["program"] == program and one["cache"] == "warm"
            )
            yield [
                f"`{program}`",
                target,
                f"{start['ms']['median'] / 1e3:.2f} s, {start['peak_rss_bytes'] / 1e6:.0f} MB",
            ]
    if speed is not None:
        row = next(
            row
            for row in speed["measurements"]
            if (row["variant"], row["num_beams"], row["batch_size"]) == ("int8 bundle", 1, 1)
        )
        yield ["over torch eager, greedy", "6x", f"{row['times_as_fast_as']['torch eager fp32']:.2f}x"]
    captioner, growth = newest("imported"), newest("growth")
    if captioner is not None:
        yield from imported_targets(captioner)
    if growth is not None:
        few, many = _folders(growth)[0], _folders(growth)[-1]
        name = f"a new photo in a folder of {many['known']:,} over one of {few['known']:,}"
        yield [name, "the same", f"{many['ms_per_new_photo'] / few['ms_per_new_photo']:.2f}x"]
    if sizes is not None:
        total, bytecode, imported = (sum(row[key] for row in sizes["measurements"]) for key in _SIZES)
        yield ["wheel with the model", "14 MB", f"{sizes['settings']['wheel_bytes'] / 1e6:.1f} MB"]
        yield [
            "core on disk",
            "220 MB",
            f"{(total + imported) / 1e6:.0f} MB after `pip install --no-compile` and a first caption; "
            f"{(total + bytecode) / 1e6:.0f} MB without that option",
        ]


def _photo(result: Result | None) -> Iterator[str]:
    if result is None:
        return
    photo = result["measurements"][0]["photo"]
    yield from ("## One photo and its floor", "", "![One photo: measured and floor](benchmarks.png)", "")
    rows = [
        [
            case["what"],
            str(case["threads"]),
            f"{case['ms']['median']:.2f} ms",
            f"{case['ms']['p95']:.2f} ms",
            f"{case['ms']['cpu_median']:.2f} ms",
            "" if case["floor_ms"] is None else f"{case['floor_ms']:.2f} ms",
            "" if case["times_floor"] is None else f"{case['times_floor']:.2f}",
            f"{case['times_one_thread']:.2f}",
        ]
        for case in photo["cases"]
    ]
    heads = ["", "threads", "median", "p95", "processor", "floor", "x floor", "x one thread"]
    yield from table(heads, rows)
    encoder, step = photo["encoder"], photo["step"]
    yield ""
    yield (
        f"The encoder runs {encoder['nodes']} nodes: {encoder['byte_operations'] / 1e6:,.0f} million "
        f"operations on bytes, {encoder['float_operations'] / 1e6:,.0f} million on floats, "
        f"{encoder['bytes'] / 1e6:.0f} MB moved. A token runs {step['nodes']} nodes and reads "
        f"{step['weight_bytes'] / 1e6:.1f} MB of weights; a greedy caption here has "
        f"{photo['tokens_per_caption']:g} of them{_in_steps(photo)}."
    )
    yield ""


def _in_steps(photo: Result) -> str:
    """How many steps write them, where a draft guesses some."""
    steps = photo.get("steps_per_caption", photo["tokens_per_caption"])
    return "" if steps == photo["tokens_per_caption"] else f", which its draft writes in {steps:g} steps"


def _starts(result: Result | None) -> Iterator[str]:
    if result is None:
        return
    listed = result["measurements"][0]["starts"]
    cold = {one["program"]: one for one in listed if one["cache"] == "cold"}
    rows = [
        [
            f"`{one['program']}`",
            f"{one['ms']['median']:.0f} ms",
            f"{cold[one['program']]['ms']['median']:.0f} ms",
            f"{one['peak_rss_bytes'] / 1e6:.0f} MB",
        ]
        for one in listed
        if one["cache"] == "warm"
    ]
    yield from ("## Fresh processes", "")
    yield from table(["", "page cache warm", "page cache cold", "peak memory"], rows)
    yield ""


def _folders(result: Result) -> list[Result]:
    return [row for row in result["measurements"] if row["measurement"] == "folder"]


def _draft(result: Result | None) -> Iterator[str]:
    if result is None:
        return
    calls = [row for row in result["measurements"] if row["measurement"] == "read"]
    (captions,) = (row for row in result["measurements"] if row["measurement"] == "caption")
    yield from ("## Guessed tokens", "")
    yield (
        f"{captions['photos']} test photos, greedy, one thread (`python -m benchmarks.draft`): "
        f"{captions['tokens']:g} tokens in {captions['draft_steps']:g} steps instead of "
        f"{captions['without_steps']:g}, {captions['draft_ms']['median']:.2f} instead of "
        f"{captions['without_ms']['median']:.2f} ms for all of them ({captions['times_as_fast']:.2f}x), "
        f"{captions['same_captions']:.1%} the same captions, log-probabilities the same to within "
        f"{captions['largest_logprob_difference']:g}. One call of the decoder:"
    )
    yield ""
    yield from table(
        ["tokens read", *(str(row["tokens"]) for row in calls)],
        [
            ["milliseconds", *(f"{row['ms']['median']:.2f}" for row in calls)],
            ["as one", *(f"{row['times_one']:.2f}x" for row in calls)],
        ],
    )
    yield ""


def _growth(result: Result | None) -> Iterator[str]:
    if result is None:
        return
    folders = _folders(result)
    tokens = [row for row in result["measurements"] if row["measurement"] == "token"]
    yield from ("## Growth", "")
    rows = [
        [
            f"{row['known']:,}",
            f"{row['walk_s']:.2f} s",
            f"{row['write_s']:.2f} s",
            f"{row['ms_per_new_photo']:.1f} ms",
        ]
        for row in folders
    ]
    heads = ["photos that are done", "a run with nothing to do", "writing the output anew adds"]
    yield from table([*heads, f"each of {folders[0]['new']} new ones adds"], rows)
    yield ""
    few, many = folders[0], folders[-1]
    more = max(many["known"] - few["known"], 1)
    looking, writing = (1e6 * (many[name] - few[name]) / more for name in ("walk_s", "write_s"))
    yield (
        f"A photo that is done takes {looking:.0f} us to look at and {writing:.0f} us to write again, in a "
        "folder of any size."
    )
    yield ""
    yield from table(
        ["tokens read before", *(str(row["tokens_before"]) for row in tokens)],
        [
            ["milliseconds of the next", *(f"{row['ms']:.2f}" for row in tokens)],
            *(
                [name, *(f"{row[key] / 1e3:.2f}" for row in tokens)]
                for name, key in (
                    ("profiled: attention, and moving what it reads", "profiled_attention_us"),
                    ("profiled: all other nodes", "profiled_others_us"),
                )
            ),
        ],
    )
    yield ""
    yield (
        "The profiler adds its own time to each node. The decoder is the shipped one with its table of "
        "places repeated, for it has 40; what a step takes does not depend on what is in the table."
    )
    yield ""


def _size(result: Result | None) -> Iterator[str]:
    if result is None:
        return
    yield from ("## What the core takes on disk", "")
    rows = result["measurements"]
    large = [row for row in rows if row["bytes"] + row["bytecode_bytes"] > 4e6]
    small = [row for row in rows if row not in large]
    groups = [(row["package"], [row]) for row in large]
    groups += [(f"{len(small)} others", small), ("together", rows)]
    lines = [
        [name, *(f"{sum(row[key] for row in some) / 1e6:.1f} MB" for key in _SIZES)] for name, some in groups
    ]
    yield from table(["", "files", "bytecode that pip writes", "bytecode of what captions import"], lines)
    yield ""
    yield (
        "`make demo` installs with `--no-compile`: then there is bytecode of what has been imported, and no "
        "other. The last column is that of `kiloword caption examples/photos --format table`."
    )
    yield ""


def _ideas() -> Iterator[str]:
    yield from ("## Ideas", "")
    yield from table(
        ["Idea", "predicted", "measured", "verdict"],
        [[idea.name, idea.predicted, idea.measured, idea.verdict] for idea in IDEAS],
    )
    yield ""


def _ways(result: Result | None) -> Iterator[str]:
    if result is None:
        return
    rows = result["measurements"]
    yield from ("## Other ways to run the same graphs", "")
    sessions = [
        [
            row["way"],
            *(
                f"{row[f'{what}_ms']:.2f} ms ({row[f'{what}_times_as_fast']:.2f}x)"
                for what in ("load", "encoder", "token")
            ),
            "yes" if row["same_values"] else "to 1e-5",
        ]
        for row in rows
        if row["measurement"] == "session"
    ]
    yield from table(["", "both graphs loaded", "encoder", "a token", "same values"], sessions)
    yield ""
    loops = [
        [
            str(row["num_beams"]),
            f"{row['python_ms']:.1f} ms",
            f"{row['graph_ms']:.1f} ms",
            f"{row['times_as_fast']:.2f}x",
        ]
        for row in rows
        if row["measurement"] == "loop"
    ]
    yield from table(["beams", "search in Python", "search in one graph", ""], loops)
    yield ""
    operators = [
        [
            row["what"],
            f"{row['form']}: {row['us']:.0f} us",
            f"{row['other']}: {row['other_us']:.0f} us",
            f"{row['other_times_as_fast']:.2f}x",
        ]
        for row in rows
        if row["measurement"] == "operator"
    ]
    yield from table(["197 rows", "ours", "other form", ""], operators)
    yield ""


def page(before: str) -> str:
    """The page with what is computed renewed."""
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{text()}\n{END}{tail}"


def draw() -> None:
    """The picture: time and floor of one photo, and what a start consists of."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    result, growth = newest("this_machine"), newest("growth")
    if result is None:
        raise SystemExit("nothing measured: make bench")
    found = result["measurements"][0]
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    cases = [case for case in found["photo"]["cases"] if case["threads"] == 1]
    names = [case["what"] for case in cases]
    left.bar(names, [case["ms"]["median"] for case in cases], label="median")
    left.bar(names, [case["floor_ms"] for case in cases], label="floor", width=0.5)
    left.errorbar(
        names, [case["ms"]["median"] for case in cases], fmt="none", color="0.2", capsize=4,
        yerr=[[0] * len(cases), [case["ms"]["p95"] - case["ms"]["median"] for case in cases]],
    )  # fmt: skip
    left.set(ylabel="milliseconds", title="One photo, one thread (whisker: p95)")
    left.legend()
    starts = found["starts"]
    for offset, cache in ((-0.2, "warm"), (0.2, "cold")):
        some = [one for one in starts if one["cache"] == cache]
        middle.barh(
            [place + offset for place in range(len(some))], [one["ms"]["median"] for one in some],
            height=0.4, label=f"page cache {cache}",
        )  # fmt: skip
        middle.set_yticks(range(len(some)), [one["program"] for one in some])
    middle.set(xlabel="milliseconds", title="Fresh processes")
    middle.legend()
    if growth is not None:
        tokens = [row for row in growth["measurements"] if row["measurement"] == "token"]
        right.plot([row["tokens_before"] for row in tokens], [row["ms"] for row in tokens], marker="o")
        right.set(
            xlabel="tokens read before", ylabel="milliseconds of the next", ylim=(0, None), title="Growth"
        )
    figure.savefig(PICTURE, dpi=100)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
    draw()
