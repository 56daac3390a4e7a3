"""Parameter groups with their own rates, and how the rates rise and fall."""

from __future__ import annotations

import math
import re
from collections import defaultdict

import torch
from torch import nn

from kiloword.train.models.encoder import Encoder
from kiloword.train.recipe import OptimizerRecipe, Stage


def make_optimizer(model: nn.Module, stage: Stage, settings: OptimizerRecipe) -> torch.optim.AdamW:
    """AdamW over what learns in this stage; biases, norms, position embeddings and class token do not decay.

    Each group carries its peak rate as ``peak_rate``. What is frozen gets ``requires_grad = False``.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    encoder = getattr(model, "encoder", None)  # a language model has none
    for name, parameter in model.named_parameters():
        rate = peak_rate(name, stage, encoder)
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            decays = parameter.ndim >= 2 and not re.search(r"position_embedding|pos_embed|cls_token", name)
            groups[rate, settings.weight_decay if decays else 0.0].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "peak_rate": rate, "weight_decay": decay}
            for (rate, decay), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
        ],
        betas=(settings.beta1, settings.beta2),
    )


def peak_rate(name: str, stage: Stage, encoder: Encoder | None) -> float:
    """The highest rate of the parameter called ``name``; 0 when it is frozen in this stage."""
    if encoder is None or not name.startswith("encoder."):
        return stage.learning_rate
    inner = name.removeprefix("encoder.")
    if encoder.level_of(inner) <= stage.frozen_blocks and stage.frozen_blocks > 0:
        return 0.0
    return stage.encoder_learning_rate * stage.layer_decay ** (encoder.levels - encoder.rate_level(inner))


def share_done(step: int, steps: int, seconds: float, minutes: float) -> float:
    """How much of a stage is over, 0 to 1: by its steps, or by the clock where that is further.

    Args:
        step: steps done.
        steps: steps of all passes.
        seconds: since the stage began.
        minutes: the most that it may take; 0: as long as its steps take.
    """
    by_steps = step / steps
    return min(1.0, max(by_steps, seconds / (60 * minutes)) if minutes else by_steps)


def rate_on_time(step: int, done: float, warmup: int) -> float:
    """Share of the peak rate where the clock decides: linear up by steps, at once down by what is ``done``.

    Args:
        step: steps done.
        done: share of the stage that is over, 0 to 1.
        warmup: steps of the rise; the fall goes on meanwhile, so that even a stage that ends in it ends at 0.
    """
    return min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * done))


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Share of the peak rate at ``step`` of ``steps``: linear up, then half a cosine down to 0."""
    warmup = min(warmup, steps // 2)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
