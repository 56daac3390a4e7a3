"""Draws docs/honesty.png from a result of benchmarks/honesty.py: reliability, and risk against coverage.

python docs/honesty.py benchmarks/results/honesty-*.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("honesty.png")


def main(result: str) -> None:
    """Draw the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = {row["case"]: row for row in json.loads(Path(result).read_text(encoding="utf-8"))["measurements"]}
    checked, test = rows["validation photos that fitted nothing"]["check"], rows["flickr8k-test"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    left.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfect")
    for name, one in (("validation, not fitted on", checked), ("Flickr8k test", test)):
        label = f"{name}: error {one['calibration_error']:.3f}"
        left.plot(*_columns(one["bins"], "confidence", "good"), marker="o", label=label)
    left.set(
        xlabel="confidence", ylabel="share of good captions", xlim=(0, 1), ylim=(0, 1), title="Reliability"
    )
    left.legend()
    coverage, risk = zip(*test["risk_coverage"], strict=True)
    right.plot(coverage, risk, marker=".", label="by confidence")
    right.axhline(1 - test["good_share"], color="0.6", linestyle="--", label="at random")
    right.set(xlabel="share of photos described", ylabel="share of bad captions among them", ylim=(0, 1),
              xlim=(0, 1), title="Risk and coverage, Flickr8k test")  # fmt: skip
    right.legend()
    figure.savefig(TARGET, dpi=110)


def _columns(rows: list[dict[str, Any]], *names: str) -> list[list[float]]:
    return [[row[name] for row in rows] for name in names]


if __name__ == "__main__":
    main(sys.argv[1])
