"""A folder of large photos through the pipeline, beside what its parts take one by one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kiloword.runtime.bench.photo import on_cpus
from kiloword.runtime.bench.pictures import write_large_photos
from kiloword.runtime.bench.timing import summarize, take_turns
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.pipeline import Pipeline, PipelineOptions, plan_lanes
from kiloword.runtime.reading import read_photo

_BATCH_SIZE = 8


@dataclass(frozen=True)
class FolderBench:
    """JPEGs of 12 megapixels, captioned with the bundle's own search."""

    photos: int
    processors: int
    decode_ms: float
    """Of a photo, with one thread."""
    caption_ms: float
    """Of a photo in a batch, with one thread."""
    photos_per_s: float
    """Through the pipeline, on all processors."""
    allowed_per_s: float
    """What decoding and captioning take, over all processors: nothing can be faster."""
    share_of_allowed: float


def measure_folder(
    bundle: Path | None, sources: Sequence[str], processors: int, photos: int, rounds: int
) -> FolderBench:
    """Time the pipeline and its two parts in turns.

    Args:
        bundle: Its directory; None for the one in the package.
        sources: Photos to make large ones of.
        processors: How many to use.
        photos: Files in the folder.
        rounds: How often each.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = write_large_photos(Path(folder), photos, sources)
        alone = Captioner.load(bundle, provider="cpu", threads=1)
        lanes, threads = plan_lanes(processors)
        together = Captioner.load(bundle, provider="cpu", threads=threads)
        options = PipelineOptions(_BATCH_SIZE, threads=processors, lanes=lanes)
        spec = alone.bundle.manifest.image
        some = paths[:_BATCH_SIZE]
        batch = np.stack([read_photo(path).decode(spec).pixels for path in some])

        def decode(_turn: int) -> float:
            with on_cpus(1):
                for path in some:
                    read_photo(path).decode(spec)
            return len(some)

        def caption(_turn: int) -> float:
            with on_cpus(1):
                alone.caption_pixels(batch)
            return len(batch)

        def whole(_turn: int) -> float:
            with Pipeline(together, paths, options) as pipeline:
                return sum(len(results) for results in pipeline)

        taken = take_turns({"decode": decode, "caption": caption, "whole": whole}, rounds, warm_up=1)
    decode_ms, caption_ms, whole_ms = (
        summarize(taken[name]).median for name in ("decode", "caption", "whole")
    )
    allowed_ms = (decode_ms + caption_ms) / processors
    return FolderBench(
        photos,
        processors,
        decode_ms,
        caption_ms,
        photos_per_s=round(1e3 / whole_ms, 2),
        allowed_per_s=round(1e3 / allowed_ms, 2),
        share_of_allowed=round(allowed_ms / whole_ms, 3),
    )
