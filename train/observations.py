"""What calibration looks at: a bundle's captions of many photos with their features, kept for next time."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from kiloword.runtime.bundle import Bundle
from kiloword.runtime.errors import ImageError
from kiloword.runtime.generation import generate
from kiloword.runtime.images import load_image
from kiloword.runtime.reliability import caption_features, picture_features, pool
from kiloword.runtime.reliability_spec import FEATURES, context_width
from kiloword.runtime.sessions import Sessions
from kiloword.runtime.tokenizer import Tokenizer
from kiloword.train.datasets import CaptionRecord
from kiloword.train.nonphotos import make_nonphotos

__all__ = ["Observations", "alter", "observe_nonphotos", "observe_photos", "pooled_output_of"]

logger = logging.getLogger(__name__)

_BATCH = 8
_LOG_EVERY = 25
_VERSION = 1
"""Part of the cache's key; another one after a change of what is observed."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Observations:
    """Rows about pictures."""

    features: NDArray[np.float64]
    """(pictures, features), columns as in `FEATURES`; those of captions are 0 where none was written."""
    pooled: NDArray[np.float64]
    """(pictures, width) of the pooled encoder output; width 0 where there is none."""
    captions: tuple[str, ...]
    """Empty where none was written."""
    rows: NDArray[np.int64]
    """Which record or number each row is about: unreadable photos are left out."""


def pooled_output_of(bundle: Bundle) -> str | None:
    """The first encoder output with batch, heads, image tokens and head width; None where there is none."""
    contexts = bundle.manifest.encoder.outputs_of("context")
    return next((tensor.name for tensor in contexts if context_width(tensor.axes) is not None), None)


def observe_photos(
    bundle: Bundle,
    sessions: Sessions,
    records: Sequence[CaptionRecord],
    *,
    altered: bool = False,
    cache: Path | None = None,
) -> Observations:
    """Caption photos and note what the captions' probabilities and the pixels are like.

    Args:
        bundle: What captions them.
        sessions: Its graphs.
        records: The photos.
        altered: Look at the photos as `alter` changes them, and write no captions.
        cache: Folder to keep the result in; the next call with the same bundle and photos reads it.
    """
    files = [(str(one.image), *_stamp(one.image)) for one in records]

    def observe() -> Observations:
        return _observe(
            bundle, sessions, _photos(bundle, records, altered), len(records), captions=not altered
        )

    return _kept(observe, cache, _key(bundle, [altered, *files]))


def observe_nonphotos(
    bundle: Bundle, sessions: Sessions, count: int, seed: int, *, cache: Path | None = None
) -> Observations:
    """Look at made pictures (`nonphotos.py`); no captions are written.

    Args:
        bundle: What looks at them.
        sessions: Its graphs.
        count: How many.
        seed: Another one makes other pictures.
        cache: As for `observe_photos`.
    """

    def observe() -> Observations:
        spec = bundle.manifest.image
        pictures = ((row, load_image(one.image, spec)) for row, one in enumerate(make_nonphotos(count, seed)))
        return _observe(bundle, sessions, pictures, count, captions=False)

    return _kept(observe, cache, _key(bundle, ["made", count, seed]))


def _kept(observe: Callable[[], Observations], cache: Path | None, key: str) -> Observations:
    """What was observed before, or what is observed now and kept."""
    if cache is None:
        return observe()
    path = cache / f"{key}.npz"
    if path.is_file():
        with np.load(path) as data:
            captions = tuple(str(text) for text in data["captions"])
            return Observations(data["features"], data["pooled"], captions, data["rows"])
    found = observe()
    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    captions_array = np.array(found.captions, dtype=np.str_)
    np.savez_compressed(
        part, features=found.features, pooled=found.pooled, captions=captions_array, rows=found.rows
    )
    part.replace(path)
    return found


def alter(pixels: Pixels, number: int) -> Pixels:
    """One of six ways in which photos differ that are photos all the same.

    Args:
        pixels: uint8 (height, width, 3).
        number: Which: grey, dark, pale, unsharp, a part enlarged, strong colours; then from the beginning.
    """
    image = Image.fromarray(pixels)
    height, width = pixels.shape[:2]
    ways = (
        lambda: ImageOps.grayscale(image).convert("RGB"),
        lambda: ImageEnhance.Brightness(image).enhance(0.35),
        lambda: ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(1.3)).enhance(0.5),
        lambda: image.filter(ImageFilter.GaussianBlur(max(height, width) / 110)),
        lambda: image.resize(
            (width, height), Image.Resampling.BICUBIC, box=(0, 0, width * 0.45, height * 0.45)
        ),
        lambda: ImageEnhance.Color(ImageEnhance.Contrast(image).enhance(1.4)).enhance(1.8),
    )
    return np.array(ways[number % len(ways)]())


def _photos(bundle: Bundle, records: Sequence[CaptionRecord], altered: bool) -> Iterator[tuple[int, Pixels]]:
    for row, record in enumerate(records):
        try:
            pixels = load_image(record.image, bundle.manifest.image)
        except ImageError as error:
            logger.warning("left out: %s", error)
            continue
        yield row, alter(pixels, row) if altered else pixels


def _observe(
    bundle: Bundle, sessions: Sessions, pictures: Iterable[tuple[int, Pixels]], total: int, *, captions: bool
) -> Observations:
    tokenizer = Tokenizer(bundle.tokenizer_path)
    output, manifest = pooled_output_of(bundle), bundle.manifest
    rows: list[int] = []
    features: list[list[float]] = []
    pooled: list[NDArray[np.float32]] = []
    texts: list[str] = []
    remaining = iter(pictures)
    while batch := list(islice(remaining, _BATCH)):
        encoded = sessions.encoder.encode(np.stack([pixels for _, pixels in batch]))
        written = (
            generate(sessions.decoder, encoded, manifest.tokens, manifest.generation) if captions else []
        )
        for place, (row, pixels) in enumerate(batch):
            logprobs = written[place].token_logprobs if captions else ()
            found = {**caption_features(logprobs), **picture_features(pixels)}
            rows.append(row)
            features.append([found[name] for name in FEATURES])
            pooled.append(np.zeros(0, np.float32) if output is None else pool(encoded[output][place]))
            texts.append(tokenizer.decode(written[place].token_ids) if captions else "")
        if len(rows) // _BATCH % _LOG_EVERY == 0:
            logger.info("%d of %d pictures", len(rows), total)
    width = len(pooled[0]) if pooled else 0
    return Observations(
        features=np.array(features, dtype=np.float64).reshape(len(rows), len(FEATURES)),
        pooled=np.array(pooled, dtype=np.float64).reshape(len(rows), width),
        captions=tuple(texts),
        rows=np.array(rows, dtype=np.int64),
    )


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _key(bundle: Bundle, of: Sequence[object]) -> str:
    """Names what an observation depends on: the graphs, the search, and the photos' files."""
    manifest = bundle.manifest
    files = {name: record.sha256 for name, record in manifest.files.items() if name != "CARD.md"}
    facts = [
        _VERSION,
        files,
        asdict(manifest.generation),
        asdict(manifest.image),
        asdict(manifest.tokens),
        of,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
