"""Draws docs/curve.png: CIDEr against megabytes and milliseconds, of our own models.

python docs/curve.py

Everything is read from benchmarks/results/: the captioners of the table, and the one that ships by its
quality and its speed. An arrow leads from float32 to int8.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
TARGET = Path(__file__).with_name("curve.png")


@dataclass(frozen=True)
class Point:
    """A captioner in one precision, with one way to search."""

    name: str
    precision: str
    num_beams: int
    cider: float
    """On Flickr8k's test photos."""
    megabytes: float
    milliseconds: float
    """Of a photo by itself, from its pixels, on one thread."""


def points_of(results: Path) -> list[Point]:
    """All points that the result files have, in order: pairs of fp32 and int8."""
    return _of_table(_rows(results, "captioners")) + _of_shipped(
        _rows(results, "quality"), _rows(results, "speed")
    )


def _rows(results: Path, benchmark: str) -> list[dict[str, Any]]:
    """The measurements of a benchmark; of several machines, those of the first by name."""
    files = sorted(results.glob(f"{benchmark}-*.json"))
    if not files:
        raise SystemExit(f"{results}: no {benchmark}-*.json; python -m benchmarks.{benchmark} writes it")
    rows: list[dict[str, Any]] = json.loads(files[0].read_text(encoding="utf-8"))["measurements"]
    return rows


def _of_table(rows: Sequence[dict[str, Any]]) -> list[Point]:
    return [
        Point(
            row["name"].removeprefix("table-").replace("-", " "),
            precision,
            1,
            row[precision]["cider"],
            row[precision]["megabytes"],
            row[precision]["ms_per_photo"],
        )
        for row in rows
        for precision in ("fp32", "int8")
    ]


def _of_shipped(quality: Sequence[dict[str, Any]], speed: Sequence[dict[str, Any]]) -> list[Point]:
    """Quality and speed of the same bundle and search; what only one of the two has is left out."""
    timed = {(row["variant"], row["num_beams"]): row for row in speed if row["batch_size"] == 1}
    points = []
    for row in quality:
        beams = row["decode"]["num_beams"]
        times = timed.get((f"{row['precision']} bundle", beams))
        if row["dataset"] == "flickr8k-test" and times is not None:
            cider, size = row["metrics"]["cider"], times["size_bytes"] / 1e6
            points.append(
                Point(row["bundle"], row["precision"], beams, cider, size, times["wall_ms"]["median"])
            )
    return sorted(points, key=lambda point: (point.num_beams, point.precision))


def draw(points: Sequence[Point], target: Path) -> None:
    """Two panels, a point for each captioner, an arrow for what int8 does to it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    for axis, (key, label) in zip(
        figure.subplots(1, 2, sharey=True),
        (("megabytes", "megabytes of the bundle"), ("milliseconds", "milliseconds a photo, one thread")),
        strict=True,
    ):
        _draw_panel(axis, points, key)
        axis.set(xlabel=label, xlim=(0, None), ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.axes[0].set(ylabel="CIDEr, Flickr8k test")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    partial = target.with_suffix(".part.png")
    figure.savefig(partial, dpi=110)
    partial.replace(target)


def _draw_panel(axis: Any, points: Sequence[Point], key: str) -> None:
    by_case: dict[tuple[str, int], dict[str, Point]] = {}
    for point in points:
        by_case.setdefault((point.name, point.num_beams), {})[point.precision] = point
    for number, ((name, beams), pair) in enumerate(by_case.items()):
        colour = f"C{number}"
        for precision, point in pair.items():
            filled = colour if precision == "int8" else "none"
            axis.plot(getattr(point, key), point.cider, "o", markerfacecolor=filled, color=colour)
        if len(pair) == 2:
            ends = [(getattr(pair[precision], key), pair[precision].cider) for precision in ("int8", "fp32")]
            arrow = {"arrowstyle": "->", "color": colour, "alpha": 0.5}
            axis.annotate("", xy=ends[0], xytext=ends[1], arrowprops=arrow)
        label = name if beams == 1 else f"{name}, {beams} beams"
        axis.plot([], [], "o", color=colour, label=label)


if __name__ == "__main__":
    draw(points_of(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS), TARGET)
