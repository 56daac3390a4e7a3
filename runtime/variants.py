"""Which variant of a bundle is fastest on this machine: fp32, fp16 and int8, which lie side by side.

The recipe that `kiloword export --quantize` took was the fastest where it was made. Another processor may
multiply bytes no faster than floats, so `kiloword doctor` times what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kiloword.runtime.bench.timing import summarize, take_turns
from kiloword.runtime.bundle import MANIFEST_FILE, Bundle, load_bundle, read_manifest
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.errors import KilowordError
from kiloword.runtime.manifest import Manifest
from kiloword.runtime.provider_trial import made_picture

_SECONDS = 8.0
_ROUNDS = 8
_TOKENS = 6  # as many for each, or the one with the shortest caption would win


@dataclass(frozen=True)
class Variant:
    """One bundle of those that differ in precision or recipe alone."""

    directory: str
    precision: str
    recipe: str | None
    """How it became int8; null where it is not, or does not say."""
    ms_per_photo: float
    """Median, greedy, one photo at a time, captions of 6 tokens."""


@dataclass(frozen=True)
class VariantTrial:
    """What was timed."""

    threads: int
    measured: tuple[Variant, ...]
    """The bundle that was asked about first."""
    fastest: Variant
    made_on: str | None
    """Where the recipe of the bundle was chosen; null where it is not int8."""
    times_as_fast_there: float | None
    """As fp32, where the recipe was chosen."""


def try_variants(directory: Path, threads: int) -> VariantTrial:
    """Time a bundle and its variants in turns.

    Args:
        directory: The bundle's; variants are the bundles of the same model in the folder around it.
        threads: With how many threads.

    Raises:
        BundleError: The bundle itself does not load.
    """
    own = load_bundle(directory)
    bundles = [own, *_others(own)]
    captioners = [Captioner.load(one.directory, provider="cpu", threads=threads) for one in bundles]
    times_ms = _race(captioners)
    for captioner in captioners:
        captioner.close()
    measured = tuple(
        Variant(str(one.directory), one.manifest.precision, _recipe(one), ms)
        for one, ms in zip(bundles, times_ms, strict=True)
    )
    quantization = own.manifest.quantization
    return VariantTrial(
        threads=threads,
        measured=measured,
        fastest=min(measured, key=lambda one: one.ms_per_photo),
        made_on=None if quantization is None else quantization.processor,
        times_as_fast_there=None if quantization is None else quantization.chosen.times_as_fast,
    )


def _others(own: Bundle) -> list[Bundle]:
    """Bundles of the same model beside this one; what is damaged is none."""
    home, found = own.directory.resolve(), []
    for path in sorted(home.parent.glob(f"*/{MANIFEST_FILE}")):
        try:
            # The manifest first: it need not take seconds to hash what is another model.
            if path.parent != home and _model(read_manifest(path.parent)) == _model(own.manifest):
                found.append(load_bundle(path.parent))
        except KilowordError:
            continue
    return found


def _model(manifest: Manifest) -> tuple[object, ...]:
    """What all variants of a bundle have in common."""
    return manifest.name, manifest.architecture, manifest.image, manifest.tokens


def _recipe(bundle: Bundle) -> str | None:
    return None if bundle.manifest.quantization is None else bundle.manifest.quantization.recipe


def _race(captioners: Sequence[Captioner]) -> list[float]:
    """Milliseconds of each for a photo."""
    image = captioners[0].bundle.manifest.image
    picture = made_picture(image.height, image.width)[None]

    def caption(captioner: Captioner, _turn: int) -> None:
        captioner.caption_pixels(picture, num_beams=1, max_new_tokens=_TOKENS)

    runners = {place: partial(caption, captioner) for place, captioner in enumerate(captioners)}
    taken = take_turns(runners, _ROUNDS, warm_up=1, seconds=_SECONDS)
    return [round(summarize(samples).median, 2) for samples in taken.values()]
