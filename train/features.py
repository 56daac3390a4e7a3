"""What the frozen lower part of the encoder sees in each photo, computed once and kept on disk.

A pass over cached features costs a tenth of a pass through the encoder: this is what makes training on a CPU
feasible.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kiloword.train.arrays import cached_array
from kiloword.train.models.encoder import Encoder
from kiloword.train.pictures import Pixels, Progress, mirrored, random_views
from kiloword.train.recipe import DEFAULT_AUGMENTATION, AugmentationRecipe

Features = NDArray[np.float16]
_BATCH = 32


def cache_features(
    encoder: Encoder,
    pixels: Pixels,
    pixels_key: str,
    block: int,
    views: int,
    cache: Path,
    progress: Progress,
    augmentation: AugmentationRecipe = DEFAULT_AUGMENTATION,
) -> Features:
    """The hidden state after ``block`` blocks for each view of each photo.

    Args:
        encoder: its lower ``block`` blocks are run, without gradients.
        pixels: uint8 (photos, height, width, 3).
        pixels_key: the hash of the photos, part of the file's name.
        block: number of frozen blocks.
        views: view 0 is the photo, view 1 its mirror image, later ones random crops, mirrored in turn. Where
            nothing is to be mirrored, all but the first are random crops.
        cache: folder for the file.
        progress: told how far it is.
        augmentation: how views differ.

    Returns:
        float16 (views, photos, *the encoder's hidden shape), read-only, memory-mapped.

    Raises:
        ConfigError: the disk has no room for them.
    """

    def fill(store: Features) -> None:
        for view in range(views):
            for start in range(0, len(pixels), _BATCH):
                photos = pixels[start : start + _BATCH]
                batch = view_of(torch.from_numpy(np.array(photos)), view, start, augmentation)
                store[view, start : start + _BATCH] = hidden_states(encoder, batch, block).numpy()
                progress("encoding photos", view * len(pixels) + start + len(photos), views * len(pixels))

    # With the default as before there was a choice: features that are there already are found again.
    key = pixels_key if augmentation == DEFAULT_AUGMENTATION else f"{pixels_key}|{augmentation}"
    target = cache / f"features-{_features_key(encoder, key, block, views)}.npy"
    shape = (views, len(pixels), *encoder.hidden_shape(block))
    return cached_array(target, shape, np.float16, fill)


def view_of(
    pixels: Tensor, view: int, seed: int, augmentation: AugmentationRecipe = DEFAULT_AUGMENTATION
) -> Tensor:
    """View number ``view`` of a batch of photos: uint8 (B, height, width, 3) -> the same shape."""
    if view == 0:
        return pixels
    if view == 1 and augmentation.mirror:
        return mirrored(pixels)
    generator = torch.Generator().manual_seed(view * 1_000_003 + seed)
    mirror = torch.full((len(pixels),), augmentation.mirrors(view))
    return random_views(pixels, generator, mirror, augmentation)


@torch.inference_mode()
def hidden_states(encoder: Encoder, pixels: Tensor, block: int) -> Tensor:
    """The encoder's hidden state after ``block`` blocks, float16 on the CPU: (B, *hidden shape)."""
    device = device_of(encoder)
    return encoder.eval().forward_until(pixels.to(device), block).half().cpu()


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next(module.parameters()).device


def _features_key(encoder: Encoder, pixels_key: str, block: int, views: int) -> str:
    """A hash of everything the features depend on, the frozen weights included."""
    # Which file the weights came from says nothing that they do not say themselves.
    described = replace(encoder.frozen_config(block), weights=None)
    digest = hashlib.sha256(f"{pixels_key}|{block}|{views}|{described}".encode())
    for name, weight in sorted(encoder.state_dict().items()):
        if encoder.level_of(name) <= block:
            digest.update(weight.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
