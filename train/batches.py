"""Which photos and captions each step sees: a pure function of the recipe's seed and the step's number.

Nothing here keeps a state, so a run that is resumed at step n sees exactly what it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kiloword.train.captions import EncodedCaptions, pad_captions, sample_captions
from kiloword.train.recipe import AugmentationRecipe, Stage


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
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)

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
        rows = shuffled_rows(self.photos, self.stage.batch_size, self.seed, step)
        random = np.random.default_rng([*self.seed, 2, step])
        views = random.integers(self.views, size=len(rows))
        is_mirrored = self.augmentation.mirrors
        for index, row in enumerate(rows):
            if is_mirrored(int(views[index])) and not self.captions[row].without_sides:
                views[index] = 0  # every caption says left or right: the mirror image would make them wrong
        captions = [
            sample_captions(self.captions[row], self.stage.captions_per_image, is_mirrored(int(view)), random)
            for row, view in zip(rows, views, strict=True)
        ]
        return Batch(rows, views, pad_captions(captions, self.pad))


def shuffled_rows(
    rows: NDArray[np.int64], batch_size: int, seed: tuple[int, int], step: int
) -> NDArray[np.int64]:
    """The rows of batch number ``step``, where each pass over all rows is shuffled anew.

    Args:
        rows: of one pass.
        batch_size: rows in a batch; the last one of a pass may be smaller.
        seed: the recipe's seed and the stage's number.
        step: counted from the beginning of the stage.
    """
    number, place = divmod(step, -(-len(rows) // batch_size))
    order = np.random.default_rng([*seed, 1, number]).permutation(rows)
    return order[place * batch_size : (place + 1) * batch_size]
