"""A picture of a run: the loss of each step and the score of each validation."""

from __future__ import annotations

from pathlib import Path

# The plain figure and not pyplot, which would look for a display and keep every figure that it ever made.
from matplotlib.figure import Figure

from kiloword.train.journal import read_journal
from kiloword.train.tasks import Measure


def draw_curves(journal: Path, target: Path, measure: Measure) -> None:
    """Draws ``metrics.jsonl`` as a PNG.

    Args:
        journal: what the run wrote.
        target: the picture, replaced as a whole.
        measure: what validation looked at.
    """
    losses, judged = _series(journal, measure.key)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*_smoothed(losses), linewidth=1.2)
    left.set(title="Training loss", xlabel="step", ylabel=measure.loss_unit)
    for name in judged[0][1] if judged else ():
        right.plot(
            [step for step, _ in judged], [scores[name] for _, scores in judged], marker=".", label=name
        )
    right.set(title=f"Validation: {measure.title}", xlabel="step")
    if judged:
        right.legend()
    for axis in (left, right):
        axis.grid(alpha=0.3)
    partial = target.with_suffix(".part.png")
    figure.savefig(partial, dpi=110)
    partial.replace(target)


def _series(journal: Path, key: str) -> tuple[list[float], list[tuple[int, dict[str, float]]]]:
    """Losses in order, and the validations with the number of steps before each, over all stages."""
    losses: list[float] = []
    judged: list[tuple[int, dict[str, float]]] = []
    for line in read_journal(journal):
        if "loss" in line:
            losses.append(line["loss"])
        if key in line:
            judged.append((len(losses), line[key]))
    return losses, judged


def _smoothed(losses: list[float], decay: float = 0.95) -> tuple[list[int], list[float]]:
    """An exponential average, without which a curve of batches is a cloud."""
    values: list[float] = []
    for loss in losses:
        values.append(loss if not values else decay * values[-1] + (1 - decay) * loss)
    return list(range(1, len(values) + 1)), values
