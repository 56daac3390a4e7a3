"""Decoded photos in one memory-mapped file, and the views of them that training sees."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import ImageSpec
from kiloword.runtime.threads import default_threads
from kiloword.train.arrays import cached_array
from kiloword.train.recipe import DEFAULT_AUGMENTATION, AugmentationRecipe

Pixels = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""

_AHEAD = 64
"""Photos that may be decoded and not yet written."""


def pack_photos(photos: Sequence[Path], spec: ImageSpec, cache: Path, progress: Progress) -> Pixels:
    """Decodes each photo once, exactly as the runtime does, into a file that later runs map again.

    Args:
        photos: image files.
        spec: size and resize mode.
        cache: folder for the packed file.
        progress: told how far it is.

    Returns:
        uint8 (photos, height, width, 3), read-only, memory-mapped.

    Raises:
        ImageError: a photo cannot be read.
        ConfigError: the disk has no room for them.
    """

    def fill(packed: Pixels) -> None:
        with ThreadPoolExecutor(default_threads()) as pool:  # Pillow decodes without the interpreter lock
            for start in range(0, len(photos), _AHEAD):
                # One group at a time: a pool that is given all photos decodes them faster than a disk writes.
                group = pool.map(lambda photo: load_image(photo, spec), photos[start : start + _AHEAD])
                for index, pixels in enumerate(group, start):
                    packed[index] = pixels
                    progress("decoding photos", index + 1, len(photos))

    target = cache / f"pixels-{photos_key(photos, spec)}.npy"
    return cached_array(target, (len(photos), spec.height, spec.width, 3), np.uint8, fill)


def photos_key(photos: Sequence[Path], spec: ImageSpec) -> str:
    """A hash of which photos, in which state, at which size."""
    digest = hashlib.sha256(repr(spec).encode())
    for photo in photos:
        facts = photo.stat()
        digest.update(f"{photo.resolve()}|{facts.st_size}|{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def mirrored(pixels: Tensor) -> Tensor:
    """Left and right exchanged: (B, height, width, 3) -> the same shape."""
    return pixels.flip(2)


def random_views(
    pixels: Tensor,
    generator: torch.Generator,
    mirror: Tensor,
    augmentation: AugmentationRecipe = DEFAULT_AUGMENTATION,
) -> Tensor:
    """Random crops, brightness, contrast and saturation, so that a photo never looks the same twice.

    By default crops keep 60 to 100 % of the area and stretch by at most 4/3: what a caption speaks of stays
    in view.

    Args:
        pixels: uint8 (B, height, width, 3), on any device.
        generator: source of randomness, on the CPU.
        mirror: boolean (B,), which photos are mirrored, on the CPU.
        augmentation: how much is changed.

    Returns:
        uint8 (B, height, width, 3).
    """
    batch = pixels.shape[0]
    image = pixels.permute(0, 3, 1, 2).float()
    # Drawn where the generator is: a GPU sees the same crops as a CPU.
    transforms = _crop_transforms(batch, generator, mirror, augmentation.crop).to(image.device)
    grid = F.affine_grid(transforms, list(image.shape), align_corners=False)
    # The crop is near the original size, so bilinear sampling does not alias.
    cropped = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
    changed = _change_colours(cropped, generator, augmentation.colour)
    return changed.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _crop_transforms(batch: int, generator: torch.Generator, mirror: Tensor, least: float) -> Tensor:
    """Affine matrices (B, 2, 3) from output to input coordinates, both on -1..1."""
    area = least + (1 - least) * torch.rand(batch, generator=generator)
    stretch = math.log(4 / 3) if least < 1 else 0.0
    aspect = torch.exp((torch.rand(batch, generator=generator) * 2 - 1) * stretch)
    width = (area * aspect).sqrt().clamp(max=1.0)
    height = (area / aspect).sqrt().clamp(max=1.0)
    centre = torch.rand(2, batch, generator=generator) * 2 - 1
    transforms = torch.zeros(batch, 2, 3)
    transforms[:, 0, 0] = torch.where(mirror, -width, width)
    transforms[:, 1, 1] = height
    transforms[:, 0, 2] = centre[0] * (1 - width)
    transforms[:, 1, 2] = centre[1] * (1 - height)
    return transforms


def _change_colours(image: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Brightness, contrast and saturation each scaled by 1 +- strength: (B, 3, height, width)."""
    drawn = torch.rand(3, image.shape[0], 1, 1, 1, generator=generator).to(image.device)
    brightness, contrast, saturation = 1 + strength * (2 * drawn - 1)
    image = image * brightness
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    image = mean + (image - mean) * contrast
    grey = image.mean(dim=1, keepdim=True)
    coloured: Tensor = grey + (image - grey) * saturation
    return coloured
