"""What a run can learn: each task has its data, its model, the loss of a step, and its judgement.

The loop knows schedules, checkpoints and logs, and asks the task for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from kiloword.train.batches import Share
from kiloword.train.pictures import Progress
from kiloword.train.recipe import Recipe, Stage


@dataclass(frozen=True)
class Measure:
    """What chooses the best checkpoint of a task."""

    key: str
    """Name in ``metrics.jsonl``, and in ``checkpoint.json`` after ``validation_``."""
    title: str
    """Name for people."""
    loss_unit: str
    """What the training loss counts."""
    higher_is_better: bool = True

    def rank(self, value: float) -> float:
        """A number that is higher for the better checkpoint."""
        return value if self.higher_is_better else -value


@dataclass(frozen=True)
class StepResult:
    """What a step found."""

    loss: Tensor
    """A scalar, to go down."""
    items: int
    """How many photos or sentences it saw."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """For the log, beside the loss."""
    weight: float = 1.0
    """Over how many tokens, or pictures, the loss is a mean: where several processes share a batch, each
    one's loss counts by it."""


@dataclass(frozen=True)
class Judgement:
    """What validation found."""

    scores: Mapping[str, float]
    """The task's measure for each validation set by its name, and for all as ``mean``."""
    others: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Further measures for the log, by name and then by validation set."""


@dataclass(frozen=True)
class Steps:
    """How long a stage is."""

    in_pass: int
    total: int


class Task(Protocol):
    """One kind of learning. A new one is a class like this and one line in `load_task`."""

    @property
    def measure(self) -> Measure:
        """What chooses the best checkpoint."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Stored in each checkpoint; ``None`` where there are no sentences."""

    @property
    def facts(self) -> dict[str, Any]:
        """For the record of a checkpoint."""

    def digest(self) -> str:
        """A hash of what is learned from: a run is resumed only with the same."""

    def build_model(self) -> nn.Module:
        """The model with its first weights, from torch's generator, a file or another checkpoint."""

    def prepare(self, model: nn.Module, stage: Stage, number: int, share: Share) -> Steps:
        """Gets a stage ready; ``number`` counts stages from 0, ``share`` is what this process does of it."""

    def step(self, number: int) -> StepResult:
        """The loss of step ``number`` of the stage: a function of that number and torch's seed alone."""

    def judge(self) -> Judgement:
        """Validates the model."""

    def stored(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What of the weights a checkpoint keeps."""


def load_task(recipe: Recipe, device: torch.device, progress: Progress) -> Task:
    """Loads the data of the task that a recipe names.

    Raises:
        ConfigError: data is missing or too much of it is bad.
        ImageError: a photo cannot be read.
    """
    from kiloword.train.captioning import CaptionTask
    from kiloword.train.classification import ClassificationTask
    from kiloword.train.language import LanguageTask

    tasks: dict[str, Callable[[Recipe, torch.device, Progress], Task]] = {
        "caption": CaptionTask,
        "language": LanguageTask,
        "classification": ClassificationTask,
    }
    return tasks[recipe.task](recipe, device, progress)
