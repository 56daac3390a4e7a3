"""A picture of a run: the loss of each step and the CIDEr of each validation."""

from __future__ import annotations

from pathlib import Path

# The plain figure and not pyplot, which would look for a display and keep every figure that it ever made.
from matplotlib.figure import Figure

from kiloword.train.journal import read_journal


def draw_curves(journal: Path, target: Path) -> None:
    """Draws ``metrics.jsonl`` as a PNG.

    Args:
        journal: what the run wrote.
        target: the picture, replaced as a whole.
    """
    losses, ciders = _series(journal)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*_smoothed(losses), linewidth=1.2)
    left.set(title="Training loss", xlabel="step", ylabel="nats per token")
    for name in ciders[0][1] if ciders else ():
        right.plot(
            [step for step, _ in ciders], [scores[name] for _, scores in ciders], marker=".", label=name
        )
    right.set(title="Validation CIDEr (greedy)", xlabel="step")
    if ciders:
        right.legend()
    for axis in (left, right):
        axis.grid(alpha=0.3)
    partial = target.with_suffix(".part.png")
    figure.savefig(partial, dpi=110)
    partial.replace(target)


def _series(journal: Path) -> tuple[list[float], list[tuple[int, dict[str, float]]]]:
    """Losses in order, and the validations with the number of steps before each, over all stages."""
    losses: list[float] = []
    ciders: list[tuple[int, dict[str, float]]] = []
    for line in read_journal(journal):
        if "loss" in line:
            losses.append(line["loss"])
        if "cider" in line:
            ciders.append((len(losses), line["cider"]))
    return losses, ciders


def _smoothed(losses: list[float], decay: float = 0.95) -> tuple[list[int], list[float]]:
    """An exponential average, without which a curve of batches is a cloud."""
    values: list[float] = []
    for loss in losses:
        values.append(loss if not values else decay * values[-1] + (1 - decay) * loss)
    return list(range(1, len(values) + 1)), values
