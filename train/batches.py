"""Which photos and captions each step sees: a pure function of the recipe's seed and the step's number.

Nothing here keeps a state, so a run that is resumed at step n sees exactly what it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kiloword.train.captions import EncodedCaptions, pad_captions, sample_captions
from kiloword.train.features import is_mirrored
from kiloword.train.recipe import Stage


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    rows: NDArray[np.int64]
    """(B,) photos."""
    views: NDArray[np.int64]
    """(B,) the view of each photo; odd ones are mirrored."""
    token_ids: NDArray[np.int64]
    """(B, captions, longest), padded."""


@dataclass(frozen=True)
class BatchPlan:
    """All steps of a stage."""

    stage: Stage
    seed: tuple[int, int]
    """The recipe's seed and the stage's number."""
    photos: NDArray[np.int64]
    """Photos of one pass, a repeated one several times."""
    captions: Sequence[EncodedCaptions]
    views: int
    pad: int

    @property
    def steps_per_pass(self) -> int:
        """Steps in which each photo is seen once."""
        return -(-len(self.photos) // self.stage.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole stage."""
        return self.steps_per_pass * self.stage.passes

    def batch(self, step: int) -> Batch:
        """The batch of step number ``step``, counted from the beginning of the stage."""
        number, place = divmod(step, self.steps_per_pass)
        order = np.random.default_rng([*self.seed, 1, number]).permutation(self.photos)
        rows = order[place * self.stage.batch_size : (place + 1) * self.stage.batch_size]
        random = np.random.default_rng([*self.seed, 2, step])
        views = random.integers(self.views, size=len(rows))
        for index, row in enumerate(rows):
            if is_mirrored(int(views[index])) and not self.captions[row].without_sides:
                views[index] = 0  # every caption says left or right: the mirror image would make them wrong
        captions = [
            sample_captions(self.captions[row], self.stage.captions_per_image, is_mirrored(int(view)), random)
            for row, view in zip(rows, views, strict=True)
        ]
        return Batch(rows, views, pad_captions(captions, self.pad))
