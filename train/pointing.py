"""The pointing game: does the attention of a word have its maximum on the thing that the word names?

Source: Zhang et al., "Top-down Neural Attention by Excitation Backprop", arXiv 1608.00507, section 4.2,
without its tolerance of some pixels; for people in captions, Hendricks et al., arXiv 1803.09797, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from kiloword.runtime.captioner import Caption
from kiloword.runtime.images import upright_size
from kiloword.runtime.manifest import ImageSpec
from kiloword.runtime.overlays import part_seen
from kiloword.train.boxes import Thing
from kiloword.train.datasets import CaptionRecord
from kiloword.train.gender import kind_of


@dataclass(frozen=True)
class Pointed:
    """One word of a caption and where its attention lay."""

    image_id: str
    word: str
    kind: str
    """``man``, ``woman``, ``person``, or the name of a category."""
    hit: bool
    """Whether the middle of the cell with the most attention lies on such a thing."""
    mass: float
    """Share of the word's attention on such things, 0..1, by the middles of cells."""
    area: float
    """Share of what the encoder saw that such things cover: what a random place would hit."""


@dataclass(frozen=True)
class PointingScore:
    """The pointing game for one kind of words."""

    words: int
    hits: float
    """Share of words whose maximum lies on the thing, 0..1."""
    mass: float
    """Mean share of attention on it."""
    chance: float
    """Mean share of the photo that it covers."""


def point(record: CaptionRecord, caption: Caption, things: Sequence[Thing], spec: ImageSpec) -> list[Pointed]:
    """Every word of a caption that names people, or a category of the things in the photo.

    Args:
        record: The photo.
        caption: With attention.
        things: What is where in it.
        spec: How the encoder saw it.

    Returns:
        The words that name something that is there; a word for people points at things called ``person``.
    """
    if caption.attention is None:
        return []
    masks = _masks(things)
    part = part_seen(upright_size(record.image), spec)
    found = []
    for word, map_ in zip(caption.words, caption.attention, strict=True):
        category, kind = target_of(word, masks)
        if category in masks:
            on_it = cells_inside(masks[category], map_.shape, part)
            hit = bool(on_it.ravel()[map_.argmax()])
            mass, area = float(map_[on_it].sum()), float(cells_inside(masks[category], (50, 50), part).mean())
            found.append(Pointed(record.image_id, word, kind, hit, mass, area))
    return found


def target_of(word: str, categories: Mapping[str, object]) -> tuple[str, str]:
    """The category that a word names, and what the word says: both empty where it names none."""
    plain = word.casefold().strip(".,;:!?\"'")
    if plain in categories:
        return plain, plain
    kind = kind_of(word)
    return ("", "") if kind == "nobody" else ("person", kind)


def cells_inside(
    mask: NDArray[np.bool_], shape: tuple[int, ...], part: tuple[float, float, float, float]
) -> NDArray[np.bool_]:
    """Which cells of a grid have their middle on a mask.

    Args:
        mask: bool (rows, columns) over the whole photo.
        shape: Rows and columns of the grid.
        part: Left, top, width and height of what the grid lies over, as shares of the photo.

    Returns:
        bool (rows, columns) of the grid.
    """
    left, top, width, height = part
    rows = (top + (np.arange(shape[0]) + 0.5) / shape[0] * height) * mask.shape[0]
    columns = (left + (np.arange(shape[1]) + 0.5) / shape[1] * width) * mask.shape[1]
    return mask[np.ix_(rows.astype(int), columns.astype(int))]


def _masks(things: Sequence[Thing]) -> dict[str, NDArray[np.bool_]]:
    """What all things of a category cover together."""
    masks: dict[str, NDArray[np.bool_]] = {}
    for thing in things:
        masks[thing.category] = masks.get(thing.category, np.zeros(1, dtype=bool)) | thing.raster()
    return masks


def score_pointing(words: Sequence[Pointed]) -> dict[str, PointingScore]:
    """The pointing game for each kind of words, and for ``all``."""
    kinds = {
        kind: [word for word in words if word.kind == kind] for kind in sorted({one.kind for one in words})
    }
    return {
        kind: PointingScore(
            len(found),
            fmean(word.hit for word in found),
            fmean(word.mass for word in found),
            fmean(word.area for word in found),
        )
        for kind, found in (kinds | {"all": list(words)}).items()
        if found
    }
