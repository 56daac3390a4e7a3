"""Bundles against each other on the same photos: who is how fast, and who says what.

All take turns on every photo, in a new order each time, on one thread of the processor, so that whatever else
the machine does falls on all of them alike. What is compared is the median of paired ratios. Where that is
too near to a draw to tell, more rounds are run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from kiloword.runtime.bundle import Bundle, load_bundle
from kiloword.runtime.generation import generate
from kiloword.runtime.manifest import GenerationSettings
from kiloword.runtime.quantization_spec import TimeFigures
from kiloword.runtime.sessions import Sessions, Tensors, load_sessions
from kiloword.runtime.tokenizer import Tokenizer

Pixels = NDArray[np.uint8]
TokenIds = tuple[int, ...]

ROUNDS = 2
MOST_ROUNDS = 10
NEAR_DRAW = 0.05
"""A ratio this near to the one that decides is measured again."""
_WARM_UP_PHOTOS = 3
_BATCH = 4


@dataclass
class Course:
    """What one bundle did; an entry for each photo in each round."""

    encode_ms: list[float] = field(default_factory=list)
    generate_ms: list[float] = field(default_factory=list)
    tokens: list[TokenIds] = field(default_factory=list)

    @property
    def photo_ms(self) -> list[float]:
        """From pixels to tokens."""
        return [sum(pair) for pair in zip(self.encode_ms, self.generate_ms, strict=True)]

    @property
    def token_ms(self) -> list[float]:
        """Per token that was written."""
        return [ms / max(len(ids), 1) for ms, ids in zip(self.generate_ms, self.tokens, strict=True)]


class Contestant:
    """A loaded bundle that captions pixels greedily, one photo at a time or in batches."""

    def __init__(self, directory: Path, provider: str = "cpu") -> None:
        self.bundle: Bundle = load_bundle(directory)
        # `auto` would put fp32 alone on a GPU and compare two machines.
        self._sessions: Sessions = load_sessions(self.bundle, provider, 1)
        manifest = self.bundle.manifest
        self._settings: GenerationSettings = replace(manifest.generation, num_beams=1)
        self._tokenizer = Tokenizer(self.bundle.tokenizer_path)

    def encode(self, pixels: Pixels) -> Tensors:
        """Run the encoder on uint8 (batch_size, height, width, 3)."""
        return self._sessions.encoder.encode(pixels)

    def write(self, encoded: Tensors) -> list[TokenIds]:
        """Write the captions of a batch."""
        found = generate(self._sessions.decoder, encoded, self.bundle.manifest.tokens, self._settings)
        return [one.token_ids for one in found]

    def run(self, photo: Pixels, course: Course) -> None:
        """Caption one photo (1, height, width, 3) and note what it took."""
        start = time.perf_counter()
        encoded = self.encode(photo)
        middle = time.perf_counter()
        (ids,) = self.write(encoded)
        end = time.perf_counter()
        course.encode_ms.append(1000 * (middle - start))
        course.generate_ms.append(1000 * (end - middle))
        course.tokens.append(ids)

    def text(self, ids: TokenIds) -> str:
        """The caption as people read it."""
        return self._tokenizer.decode(ids)


def race(
    contestants: Mapping[str, Contestant], pixels: Pixels, is_open: Callable[[Mapping[str, Course]], bool]
) -> tuple[dict[str, Course], int]:
    """Let the bundles caption photos in turns.

    Args:
        contestants: by name.
        pixels: uint8 (photos, height, width, 3).
        is_open: asked after each round from the second on: may one more round change the outcome?

    Returns:
        What each did, and the number of rounds.
    """
    shuffler = random.Random(0)
    photos = [pixels[index : index + 1] for index in range(len(pixels))]
    for contestant in contestants.values():
        for photo in photos[:_WARM_UP_PHOTOS]:
            contestant.run(photo, Course())
    courses = {name: Course() for name in contestants}
    for done in range(1, MOST_ROUNDS + 1):
        for photo in photos:
            for name in shuffler.sample(list(contestants), len(contestants)):
                contestants[name].run(photo, courses[name])
        if done >= ROUNDS and not is_open(courses):
            return courses, done
    return courses, MOST_ROUNDS


def times_as_fast(course: Course, reference: Course) -> float:
    """The median of paired ratios: more than 1 where the course is faster than the reference."""
    return median(a / b for a, b in zip(reference.photo_ms, course.photo_ms, strict=True))


def time_figures(samples_ms: Sequence[float]) -> TimeFigures:
    """Median and 95th percentile (nearest rank)."""
    ordered = sorted(samples_ms)
    rank = max(int(np.ceil(0.95 * len(ordered))) - 1, 0)
    return TimeFigures(round(median(ordered), 3), round(ordered[rank], 3))


def agreement(first: Sequence[str], second: Sequence[str]) -> tuple[float, float]:
    """Share of captions that are equal, and of words that stand at the same place in both."""
    same = sum(a == b for a, b in zip(first, second, strict=True))
    words = [(a.split(), b.split()) for a, b in zip(first, second, strict=True)]
    equal = sum(sum(x == y for x, y in zip(a, b, strict=False)) for a, b in words)
    total = sum(max(len(a), len(b)) for a, b in words)
    return round(same / len(first), 4), round(equal / max(total, 1), 4)


def company(contestant: Contestant, pixels: Pixels) -> tuple[float, float]:
    """What a photo's neighbours in a batch change.

    The neighbours are other photos and, in each batch, a picture of black and white noise: the loudest there
    is, which a range over the whole batch must make room for.

    Args:
        contestant: the bundle to try.
        pixels: uint8 (photos, height, width, 3).

    Returns:
        The share of photos whose caption is the same alone and in a batch, and the largest change of an
        encoding, relative to it.
    """
    noise = (np.random.default_rng(0).integers(0, 2, pixels.shape[1:]) * 255).astype(np.uint8)
    same, worst, photos = 0, 0.0, 0
    for start in range(0, len(pixels), _BATCH - 1):
        own = pixels[start : start + _BATCH - 1]
        together = contestant.encode(np.concatenate([own, noise[None]]))
        written = contestant.write(together)
        for row in range(len(own)):
            alone = contestant.encode(own[row : row + 1])
            worst = max(worst, *(_difference(together[name][row], value[0]) for name, value in alone.items()))
            same += contestant.write(alone) == [written[row]]
            photos += 1
    return round(same / photos, 4), round(worst, 6)


def _difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-12))
