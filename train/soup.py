"""Checkpoints averaged: runs that began alike and differ by their seeds make one better model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kiloword.runtime.errors import ConfigError
from kiloword.train.checkpoint import FACTS_FILE, Checkpoint, load_checkpoint, save_model


def average_checkpoints(directories: Sequence[Path], target: Path) -> Checkpoint:
    """Writes the mean of the weights of several checkpoints.

    The mean of runs that went apart from a shared beginning is often better than each of them, at the cost
    of one; the mean of runs that began differently is no model at all. The recipe and the record are those of
    the first, and the record says what was averaged.

    Args:
        directories: two or more checkpoints of captioners with the same parts and the same vocabulary.
        target: where to write; an older checkpoint there, or an empty folder, is replaced.

    Returns:
        The new checkpoint.

    Raises:
        CheckpointError: a directory is no checkpoint of a captioner.
        ConfigError: fewer than two are named, they do not fit together, or the target is something else.

    Source: Model soups (arXiv 2203.05482), the uniform soup.
    """
    if len(directories) < 2:
        raise ConfigError(
            [f"an average needs 2 checkpoints or more, found {len(directories)}"], hint="name another one"
        )
    _check_target(target, directories)
    checkpoints = [load_checkpoint(directory) for directory in directories]
    problems = [
        f"{directory}: {problem}"
        for directory, checkpoint in zip(directories[1:], checkpoints[1:], strict=True)
        for problem in _differences(checkpoints[0], checkpoint)
    ]
    if problems:
        raise ConfigError(problems, path=directories[0], hint="average checkpoints of one recipe")
    states = [checkpoint.model.state_dict() for checkpoint in checkpoints]
    weights = {name: _mean([state[name] for state in states]) for name in states[0]}
    first = checkpoints[0]
    averaged = [
        {"name": checkpoint.recipe.name, "seed": checkpoint.recipe.seed, "sha256": checkpoint.digest}
        for checkpoint in checkpoints
    ]
    record = {key: value for key, value in first.training.items() if not key.startswith("validation")}
    save_model(target, weights, first.tokenizer, first.recipe, {**record, "averaged": averaged})
    return load_checkpoint(target)


def _check_target(target: Path, directories: Sequence[Path]) -> None:
    """Refuse to write over anything but an older checkpoint that is not one of those averaged."""
    if any(target.resolve() == directory.resolve() for directory in directories):
        raise ConfigError(["is one of those averaged"], path=target, hint="another -o DIR")
    empty = target.is_dir() and not any(target.iterdir())
    if target.exists() and not empty and not (target / FACTS_FILE).is_file():
        raise ConfigError(["is there already, and is no checkpoint"], path=target, hint="another -o DIR")


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]  # counters of batch norm
    return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0).to(tensors[0].dtype)


def _differences(first: Checkpoint, other: Checkpoint) -> list[str]:
    """Why two checkpoints have no mean."""
    if first.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        return ["its token ids mean other words"]
    shapes, others = (
        {k: tuple(v.shape) for k, v in one.model.state_dict().items()} for one in (first, other)
    )
    return [
        f"{name}: expected shape {shapes.get(name, 'none')}, found {others.get(name, 'none')}"
        for name in sorted(shapes.keys() | others.keys())
        if shapes.get(name) != others.get(name)
    ][:3]
