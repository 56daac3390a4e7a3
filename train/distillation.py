"""Keeping what the encoder knew before it learned to caption: the classes of its published classifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from kiloword.runtime.errors import ConfigError
from kiloword.train.checkpoint import load_encoder_weights
from kiloword.train.models.classifier import Classifier
from kiloword.train.models.vit import VitConfig
from kiloword.train.recipe import Recipe


class UntouchedEncoder:
    """The encoder as it was published, with its classifier over the class token.

    Args:
        recipe: with a ViT encoder and its ``weights``.
        device: where it computes.

    Raises:
        ConfigError: the weights are missing, bad, of another encoder, or come without a classifier.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        config = recipe.encoder
        if not isinstance(config, VitConfig) or config.weights is None:
            raise ConfigError(["distillation: expected an encoder of kind 'vit' with weights"])
        path = Path(recipe.data.root) / config.weights
        # As published: it merges nothing, whatever the one that learns does.
        holder = Classifier(replace(config, merge_after=0, drop_path=0.0).build(), 1)
        load_encoder_weights(holder, path)
        self._encoder = holder.encoder.eval().requires_grad_(False).to(device)
        self.weight, self.bias = (tensor.to(device) for tensor in _classifier(path, config.width))

    @torch.no_grad()
    def scores(self, pixels: Tensor) -> Tensor:
        """uint8 (B, height, width, 3) -> logits (B, classes)."""
        return self.classify(self._encoder(pixels))

    def classify(self, features: Tensor) -> Tensor:
        """The published classifier on features (B, N, C) of any encoder with a class token: (B, classes)."""
        return F.linear(features[:, 0], self.weight, self.bias)


def class_divergence(learned: Tensor, untouched: Tensor) -> Tensor:
    """How far the learning encoder's classes are from those of the untouched one.

    Args:
        learned: logits (B, classes), with gradients.
        untouched: logits (B, classes).

    Returns:
        The Kullback-Leibler divergence in nats, mean over pictures.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531; against
        forgetting: Li and Hoiem, "Learning without Forgetting", arXiv 1606.09282.
    """
    wanted = untouched.float().log_softmax(-1)
    return F.kl_div(learned.float().log_softmax(-1), wanted, reduction="batchmean", log_target=True)


def _classifier(path: Path, width: int) -> tuple[Tensor, Tensor]:
    with safe_open(path, "pt") as file:
        if not {"head.weight", "head.bias"} <= set(file.keys()):
            raise ConfigError(
                ["distillation: the weights have no classifier (head.weight, head.bias)"], path=path
            )
        weight, bias = file.get_tensor("head.weight").float(), file.get_tensor("head.bias").float()
    if weight.shape != (len(bias), width):
        found = f"head.weight: expected shape ({len(bias)}, {width}), found {tuple(weight.shape)}"
        raise ConfigError([f"distillation: {found}"], path=path)
    return weight, bias
