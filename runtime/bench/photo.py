"""One photo at a time: encoder, tokens and captions, with several numbers of threads, and their floors."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

from kiloword.runtime.bench.floor import Floor, GraphWork, floor_of, nodes_of, work_of
from kiloword.runtime.bench.peaks import Peaks, measure_peaks
from kiloword.runtime.bench.steps import decoder_feeds, encoder_feeds
from kiloword.runtime.bench.timing import Sample, Times, paired_ratio, summarize, take_turns
from kiloword.runtime.bundle import Bundle
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.generation import generate
from kiloword.runtime.sessions import Sessions, load_sessions
from kiloword.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kiloword.runtime.sessions import Tensors

_PARTS = 3
"""The machine's peaks are measured before, between and after these."""
_FEWEST_BEAMS = 3


@dataclass(frozen=True)
class Case:
    """One thing that was timed."""

    what: str
    """``encoder``, ``token`` (of which a caption has some), ``greedy`` or ``N beams``."""
    threads: int
    ms: Times
    times_one_thread: float
    """How many times as fast as with one thread: the median of paired ratios."""
    floor_ms: float | None
    """The least time of its operators with one thread; None for more threads."""
    times_floor: float | None
    """How many times longer the median is."""


@dataclass(frozen=True)
class PhotoBench:
    """What one photo takes."""

    peaks: Peaks
    """Of one core: medians of some measurements during the others."""
    encoder: GraphWork
    encoder_floor: Floor
    step: GraphWork
    """A step in the middle of a greedy caption that reads one token."""
    step_floor: Floor
    tokens_per_caption: float
    """Greedy, the end of the sequence included."""
    steps_per_caption: float
    """Greedy: fewer than tokens where the bundle has a draft, whose guesses are read several at once."""
    cases: tuple[Case, ...]


class _Loaded:
    """A bundle with a number of threads, on as many processors."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._bundle, self._threads = bundle, threads
        with on_cpus(threads):
            self.sessions: Sessions = load_sessions(bundle, "cpu", threads)
        self._captioner = Captioner(bundle, self.sessions, Tokenizer(bundle.tokenizer_path))

    def encode(self, pixels: NDArray[np.uint8]) -> Tensors:
        with on_cpus(self._threads):
            return self.sessions.encoder.encode(pixels[None])

    def write(self, encoded: Tensors) -> None:
        """All tokens of a greedy caption, one by one."""
        manifest = self._bundle.manifest
        greedy = replace(manifest.generation, num_beams=1)
        with on_cpus(self._threads):
            generate(self.sessions.decoder, encoded, manifest.tokens, greedy)

    def caption(self, pixels: NDArray[np.uint8], num_beams: int) -> None:
        with on_cpus(self._threads):
            self._captioner.caption_pixels(pixels[None], num_beams=num_beams)


class _Photos:
    """The photos, and what the two graphs do for each."""

    def __init__(
        self, bundle: Bundle, pixels: Sequence[NDArray[np.uint8]], loaded: _Loaded, beams: int
    ) -> None:
        self.pixels = pixels
        self.encoded = [loaded.encode(one) for one in pixels]
        generation, sessions = bundle.manifest.generation, loaded.sessions
        one_by_one, greedy, wide = (
            [
                decoder_feeds(bundle, sessions.decoder, one, replace(generation, num_beams=count), drafter)
                for one in self.encoded
            ]
            for count, drafter in ((1, None), (1, sessions.drafter), (beams, None))
        )
        self.tokens = [len(feeds) for feeds in one_by_one]
        self.mean_steps, self.mean_wide_steps = (
            statistics.fmean(map(len, feeds)) for feeds in (greedy, wide)
        )
        self.encoder = nodes_of(bundle.encoder_path, encoder_feeds(bundle, pixels[0]))
        self.token, self.step, self.wide_step = (
            nodes_of(bundle.decoder_path, feeds[0][len(feeds[0]) // 2])
            for feeds in (one_by_one, greedy, wide)
        )

    def floors(self, peaks: Peaks, beams: int) -> dict[str, float]:
        """The least milliseconds of each case."""
        encoder, token, step, wide = (
            floor_of(nodes, peaks).total_ms for nodes in (self.encoder, self.token, self.step, self.wide_step)
        )
        return {
            "encoder": encoder,
            "token": token,
            "greedy": encoder + self.mean_steps * step,
            f"{beams} beams": encoder + self.mean_wide_steps * wide,
        }


@contextmanager
def on_cpus(count: int) -> Iterator[None]:
    """Keep this thread, and those that it starts, on some processors; where the system cannot, nothing."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure_photo(
    bundle: Bundle, pixels: Sequence[NDArray[np.uint8]], thread_counts: Sequence[int], rounds: int
) -> PhotoBench:
    """Time all cases in turns, photo by photo.

    Args:
        bundle: What captions.
        pixels: uint8 (height, width, 3) each, of the bundle's size.
        thread_counts: Numbers of threads; 1 comes first.
        rounds: Calls of each case.
    """
    beams = max(_FEWEST_BEAMS, bundle.manifest.generation.num_beams)
    loaded = {count: _Loaded(bundle, count) for count in thread_counts}
    photos = _Photos(bundle, pixels, loaded[thread_counts[0]], beams)
    variants = {
        (what, count): work
        for count, one in loaded.items()
        for what, work in _variants(one, photos, beams).items()
    }
    taken: dict[tuple[str, int], list[Sample]] = {key: [] for key in variants}
    peaks = [_peaks()]
    for _ in range(_PARTS):
        for key, samples in take_turns(variants, -(-rounds // _PARTS)).items():
            taken[key] += samples
        peaks.append(_peaks())
    middle = Peaks(*(statistics.median(values) for values in zip(*map(astuple, peaks), strict=True)))
    return PhotoBench(
        peaks=middle,
        encoder=work_of(photos.encoder),
        encoder_floor=floor_of(photos.encoder, middle),
        step=work_of(photos.token),
        step_floor=floor_of(photos.token, middle),
        tokens_per_caption=round(statistics.fmean(photos.tokens), 2),
        steps_per_caption=round(photos.mean_steps, 2),
        cases=tuple(_cases(taken, photos.floors(middle, beams))),
    )


def _peaks() -> Peaks:
    with on_cpus(1):
        return measure_peaks()


def _variants(loaded: _Loaded, photos: _Photos, beams: int) -> dict[str, Callable[[int], float | None]]:
    """What is timed; each gets the number of its round, and returns by what its time is to be divided."""

    def at(turn: int) -> int:
        return turn % len(photos.pixels)

    def encode(turn: int) -> None:
        loaded.encode(photos.pixels[at(turn)])

    def write(turn: int) -> float:
        loaded.write(photos.encoded[at(turn)])
        return photos.tokens[at(turn)]

    def greedy(turn: int) -> None:
        loaded.caption(photos.pixels[at(turn)], 1)

    def wide(turn: int) -> None:
        loaded.caption(photos.pixels[at(turn)], beams)

    return {"encoder": encode, "token": write, "greedy": greedy, f"{beams} beams": wide}


def _cases(taken: Mapping[tuple[str, int], Sequence[Sample]], floors: Mapping[str, float]) -> Iterator[Case]:
    for (what, threads), samples in taken.items():
        times, floor = summarize(samples), floors[what] if threads == 1 else None
        yield Case(
            what,
            threads,
            times,
            times_one_thread=paired_ratio(taken[what, 1], samples),
            floor_ms=None if floor is None else round(floor, 3),
            times_floor=None if floor is None else round(times.median / floor, 2),
        )
