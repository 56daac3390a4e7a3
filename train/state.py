"""Where a run stands, written to disk and found again, so that a killed run can go on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from kiloword.runtime.errors import ConfigError
from kiloword.train.checkpoint import load_resume, recover_directory, save_resume
from kiloword.train.recipe import Recipe

BEST, RESUME = "best", "resume"
"""Directories in a run's folder: the best model so far, and what the run goes on from."""


@dataclass
class Position:
    """How far a run is."""

    stage: int = 0
    step: int = 0
    """Steps done in this stage."""
    best_rank: float = -math.inf
    """Of the best validation so far, higher is better."""
    stale: int = 0
    """Validations since the best one."""
    seconds: float = 0.0
    """Training time so far, over all starts."""
    stage_seconds: float = 0.0
    """Wall-clock time of this stage so far, over all starts."""
    processes: int = 1
    """How many share each batch."""


@dataclass(frozen=True)
class RunState:
    """All that a run needs to go on, beside its recipe and its data."""

    position: Position
    model: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    """Running average of the model's weights."""
    optimizer: Mapping[str, Tensor]
    """Empty at the beginning of a stage."""
    data_digest: str | None
    """Hash of what the run learned from; ``None`` where a run did not write it."""


def save_state(output: Path, recipe: Recipe, state: RunState) -> None:
    """Writes the state of a run in place of its older one."""
    tensors = {f"model.{name}": tensor for name, tensor in state.model.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.items()}
    tensors |= state.optimizer
    facts = {"recipe": recipe.digest(), "position": asdict(state.position), "data": state.data_digest}
    save_resume(output / RESUME, tensors, facts)


def find_state(output: Path, recipe: Recipe, *, resume: bool) -> RunState | None:
    """What to go on from, or ``None`` for a new run; no run is overwritten or mixed with another by mistake.

    Raises:
        CheckpointError: the state is damaged.
        ConfigError: there is a run and it may not be resumed, or there is none and it should be.
    """
    recover_directory(output / BEST)
    saved = load_resume(output / RESUME)
    if saved is None:
        _require_free(output, resume)
        return None
    if not resume:
        hint = "--resume to go on with it, or another folder with -o"
        raise ConfigError(["the folder holds a run already"], path=output, hint=hint)
    tensors, facts = saved
    if facts["recipe"] != recipe.digest():
        hint = "the recipe and --set values of its start, or another folder with -o"
        raise ConfigError(["the run in this folder was started with another recipe"], path=output, hint=hint)
    return RunState(
        position=Position(**facts["position"]),
        model=_part(tensors, "model."),
        average=_part(tensors, "average."),
        optimizer={name: item for name, item in tensors.items() if name.startswith("optimizer.")},
        data_digest=facts.get("data"),
    )


def _require_free(output: Path, resume: bool) -> None:
    if resume:
        hint = "the same command without --resume"
        raise ConfigError(["there is no run to resume"], path=output, hint=hint)
    if (output / BEST).exists():
        hint = "another folder with -o, or move it away"
        raise ConfigError(["the folder holds a trained model already"], path=output, hint=hint)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): item for name, item in tensors.items() if name.startswith(prefix)}
