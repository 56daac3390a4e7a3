"""The photos of a run as the model takes them: pixels with fresh augmentation, or cached hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kiloword.runtime.manifest import ImageSpec
from kiloword.train.features import Features, cache_features, device_of
from kiloword.train.models.encoder import Encoder
from kiloword.train.pictures import Pixels, Progress, pack_photos, photos_key, random_views
from kiloword.train.recipe import DEFAULT_AUGMENTATION, AugmentationRecipe


@dataclass(frozen=True)
class Photos:
    """Decoded photos, and where a stage has frozen blocks, what these blocks see."""

    pixels: Pixels
    """uint8 (photos, height, width, 3)."""
    key: str
    """Hash of the photos."""
    augmentation: AugmentationRecipe = DEFAULT_AUGMENTATION
    """How views of a photo differ."""
    block: int = 0
    """Number of frozen blocks."""
    hidden: Features | None = None
    """float16 (views, photos, *hidden shape), the state after ``block`` blocks."""

    @classmethod
    def load(
        cls,
        files: Sequence[Path],
        spec: ImageSpec,
        cache: Path,
        progress: Progress,
        augmentation: AugmentationRecipe = DEFAULT_AUGMENTATION,
    ) -> Photos:
        """Decodes the photos, or maps what an earlier run decoded."""
        return cls(pack_photos(files, spec, cache, progress), photos_key(files, spec), augmentation)

    def frozen_at(self, encoder: Encoder, block: int, views: int, cache: Path, progress: Progress) -> Photos:
        """The same photos, seen through ``block`` frozen blocks; unchanged when ``block`` is 0."""
        if block == 0:
            return Photos(self.pixels, self.key, self.augmentation)
        hidden = cache_features(
            encoder, self.pixels, self.key, block, views, cache, progress, self.augmentation
        )
        return Photos(self.pixels, self.key, self.augmentation, block, hidden)

    @property
    def views(self) -> int:
        """Views to choose from; with pixels, as they are and mirrored, each cropped anew every time."""
        if self.hidden is not None:
            return len(self.hidden)
        return 2 if self.augmentation.mirror else 1

    def features(self, encoder: Encoder, rows: NDArray[np.int64], views: NDArray[np.int64]) -> Tensor:
        """Features of some photos in training, with gradients where the encoder learns.

        Args:
            encoder: what learns, or its frozen state.
            rows: (B,) which photos.
            views: (B,) which view of each; odd ones are mirrored.

        Returns:
            (B, tokens, width) float, on the encoder's device.
        """
        return self.features_and_pixels(encoder, rows, views)[0]

    def features_and_pixels(
        self, encoder: Encoder, rows: NDArray[np.int64], views: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor | None]:
        """As `features`; and the pixels that the encoder saw, or None where frozen blocks were cached."""
        device = device_of(encoder)
        if self.hidden is not None:
            hidden = torch.from_numpy(self.hidden[views, rows])
            return encoder.forward_from(hidden.to(device, torch.float32), self.block), None
        pixels = self.varied(rows, views, device)
        return encoder(pixels), pixels

    def varied(self, rows: NDArray[np.int64], views: NDArray[np.int64], device: torch.device) -> Tensor:
        """Photos with fresh augmentation, by torch's generator; arguments as for `features`.

        Returns:
            uint8 (B, height, width, 3).
        """
        pixels = torch.from_numpy(self.pixels[rows]).to(device)
        mirror = torch.tensor([self.augmentation.mirrors(int(view)) for view in views])
        return random_views(pixels, torch.default_generator, mirror, self.augmentation)

    def plain_features(self, encoder: Encoder, rows: slice) -> Tensor:
        """Features of some photos as they are, for validation: (B, tokens, width) float."""
        device = device_of(encoder)
        if self.hidden is not None:
            hidden = torch.from_numpy(np.array(self.hidden[0, rows]))
            return encoder.forward_from(hidden.to(device, torch.float32), self.block)
        return encoder(torch.from_numpy(np.array(self.pixels[rows])).to(device))  # type: ignore[no-any-return]
