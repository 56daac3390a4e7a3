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
class Share:
    """What one of several processes does of each batch."""

    number: int = 0
    """The process, from 0."""
    of: int = 1
    """How many processes there are."""

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Every ``of``-th row of a batch (B, ...)."""
        return rows[self.number :: self.of]

    def steps_in_pass(self, rows: int, batch_size: int) -> int:
        """Batches that see each row once, where each process gives ``batch_size`` rows to a batch.

        What remains for a last batch with less than a row for each process is left out of this pass.
        """
        full, rest = divmod(rows, batch_size * self.of)
        return full + (rest >= self.of)


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
    share: Share = Share()

    @property
    def steps_per_pass(self) -> int:
        """Steps in which each photo is seen once."""
        return self.share.steps_in_pass(len(self.photos), self.stage.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole stage."""
        return self.steps_per_pass * self.stage.passes

    def batch(self, step: int) -> Batch:
        """This process's part of batch number ``step``, counted from the beginning of the stage."""
        rows = shuffled_rows(
            self.photos, self.stage.batch_size * self.share.of, self.seed, divmod(step, self.steps_per_pass)
        )
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
        mine = self.share.take
        return Batch(mine(rows), mine(views), mine(pad_captions(captions, self.pad)))


def shuffled_rows(
    rows: NDArray[np.int64], batch_size: int, seed: tuple[int, int], at: tuple[int, int]
) -> NDArray[np.int64]:
    """The rows of one batch, where each pass over all rows is shuffled anew.

    Args:
        rows: of one pass.
        batch_size: rows in a batch, of all processes; the last one of a pass may be smaller.
        seed: the recipe's seed and the stage's number.
        at: the number of the pass in the stage, and of the batch in the pass.
    """
    number, place = at
    order = np.random.default_rng([*seed, 1, number]).permutation(rows)
    return order[place * batch_size : (place + 1) * batch_size]
