"""Computes the tables of docs/SCALING.md from what was measured, and writes them there.

    python -m benchmarks.photo_costs DIR
    python docs/scaling.py

A test fails while the page is not what this computes from the newest benchmarks/results/photo_costs-*.json.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "SCALING.md"
RESULTS = DOCS.parent / "benchmarks" / "results"
BEGIN = "<!-- From here on written by docs/scaling.py; change it and run it again. -->"
END = "<!-- Up to here. -->"

# What is assumed, and not measured here.
PHOTOS = 100_000_000
CORES = 16
"""Of each machine."""
BUSY = 0.9
"""Share of each core's time that is work; what benchmarks/folder.py is to reach on one machine."""
USD_PER_CORE_HOUR = 0.04
ROW_BYTES = 100
"""Of a caption as Parquet."""
MACHINES = 10


def newest_result() -> dict[str, Any]:
    """The photo costs that were measured last."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("photo_costs-*.json"))]
    if not found:
        raise SystemExit("nothing measured: python -m benchmarks.photo_costs DIR")
    newest: dict[str, Any] = max(found, key=lambda result: str(result["date"]))
    return newest


def tables(result: dict[str, Any]) -> str:
    """All that follows from a result, as Markdown."""
    rows = result["measurements"]
    decode = {row["photos"]: row for row in rows if row["measurement"] == "decode"}
    caption = {row["search"]: row for row in rows if row["measurement"] == "caption"}
    (memory,) = (row for row in rows if row["measurement"] == "memory")
    sizes = [decode["small"], decode["large"]]
    both = [size["cpu_ms"] + caption["default"]["cpu_ms"] for size in sizes]
    heads = [f"{one['width']} x {one['height']}, {one['bytes'] / 1e3:,.0f} kB" for one in sizes]
    default, greedy, settings = caption["default"], caption["greedy"], result["settings"]
    measured = [
        ("decode and shrink", [f"{one['cpu_ms']:.1f} ms" for one in sizes]),
        (
            f"caption, {default['num_beams']} beams, batches of {default['batch_size']}",
            [f"{default['cpu_ms']:.1f} ms"] * 2,
        ),
        ("together", [f"{total:.1f} ms" for total in both]),
    ]
    model, version = result["machine"]["cpu_model"], result["versions"]["onnxruntime"]
    bundle_mb, memory_mb = settings["bundle_bytes"] / 1e6, memory["peak_rss_bytes"] / 1e6
    lines = [
        f"Measured {result['date']} on one core of an {model} with onnxruntime {version} and the bundle",
        f"`{settings['bundle']}` ({settings['precision']}): processor time for each photo",
        "(`python -m benchmarks.photo_costs`, `benchmarks/results/photo_costs-*.json`).",
        "",
        *table(["per photo", *heads], measured),
        "",
        f"Computed from that for {PHOTOS / 1e6:,.0f} million photos, at {BUSY:.0%} use of each core:",
        "",
        *table(["", *heads], scaled(sizes, both)),
        "",
        f"Greedy search (`--num-beams 1`) takes {greedy['cpu_ms']:.1f} ms for a caption instead of",
        f"{default['cpu_ms']:.1f} ms. The bundle is {bundle_mb:,.0f} MB, and a process that",
        f"decodes and captions such photos held at most {memory_mb:,.0f} MB of memory.",
    ]
    return "\n".join(lines)


def scaled(sizes: list[dict[str, Any]], both: list[float]) -> list[tuple[str, list[str]]]:
    """The rows of the second table."""
    hours = [PHOTOS * ms / 3.6e6 for ms in both]
    paid = [one / BUSY for one in hours]
    per_million = [one / (PHOTOS / 1e6) for one in paid]
    days = [one / 24 / CORES for one in paid]
    rates = [CORES * BUSY * 1e3 / ms for ms in both]
    return [
        ("core-hours of work", [f"{one:,.0f}" for one in hours]),
        (f"machines of {CORES} cores for one day", [f"{one:.1f}, so {math.ceil(one)}" for one in days]),
        (f"with {MACHINES} such machines", [f"{one / CORES / MACHINES:.1f} hours" for one in paid]),
        ("core-hours for each million", [f"{one:.1f}" for one in per_million]),
        (
            f"cost of a million at {USD_PER_CORE_HOUR} USD a core-hour",
            [f"{one * USD_PER_CORE_HOUR:.2f} USD" for one in per_million],
        ),
        ("bytes to be moved", [f"{PHOTOS * one['bytes'] / 1e12:,.0f} TB" for one in sizes]),
        (
            f"into each machine of {CORES} cores",
            [f"{rate * one['bytes'] / 1e6:,.0f} MB/s" for rate, one in zip(rates, sizes, strict=True)],
        ),
        (f"captions as Parquet, at {ROW_BYTES} bytes a row", [f"{PHOTOS * ROW_BYTES / 1e9:,.0f} GB"] * 2),
    ]


def table(heads: list[str], rows: list[tuple[str, list[str]]]) -> list[str]:
    """Lines of a Markdown table."""
    cells = [heads, ["---"] * len(heads), *([name, *values] for name, values in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def page(text: str) -> str:
    """The page with its tables renewed."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{tables(newest_result())}\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
