"""Bundles on other execution providers than the processor: the same captions, or they are not named."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kiloword.export.trial import Contestant, Pixels, agreement
from kiloword.runtime.bundle import Bundle, load_bundle, write_manifest
from kiloword.runtime.errors import ParityError

logger = logging.getLogger(__name__)

SMALLEST_AGREEMENT = 0.9
"""Share of words as on the processor: another order of sums may tip a word, a wrong kernel tips most."""


@dataclass(frozen=True)
class ProviderCheck:
    """A bundle on one provider beside itself on the processor."""

    provider: str
    photos: int
    equal_captions: float
    equal_words: float


def check_on_providers(directory: Path, providers: Sequence[str], pixels: Pixels) -> Bundle:
    """Captions photos on each provider, and writes into the bundle on which of them it was checked.

    Args:
        directory: of the bundle.
        providers: keys of `providers.PROVIDERS`.
        pixels: uint8 (photos, height, width, 3).

    Raises:
        ProviderError: one of them is not there or does not load.
        ParityError: the bundle says something else there than on the processor.
    """
    bundle = load_bundle(directory)
    reference = _captions(directory, "cpu", pixels)
    checks = []
    for provider in dict.fromkeys(providers):
        equal_captions, equal_words = agreement(reference, _captions(directory, provider, pixels))
        logger.info(
            "%s on %s: %.0f%% of captions and %.0f%% of words as on the processor, %d photos",
            *(bundle.manifest.precision, provider, 100 * equal_captions, 100 * equal_words, len(pixels)),
        )
        if equal_words < SMALLEST_AGREEMENT:
            raise ParityError(
                f"the {bundle.manifest.precision} bundle says other things on {provider}",
                expected=f"{SMALLEST_AGREEMENT:.0%} of words as on the processor, or more",
                found=f"{equal_words:.0%}",
                hint="another --precision for this device",
            )
        checks.append(ProviderCheck(provider, len(pixels), equal_captions, equal_words))
    names = tuple(dict.fromkeys((*bundle.manifest.checked_providers, "cpu", *providers)))
    facts = {
        one.provider: {
            "photos": one.photos,
            "equal_captions": one.equal_captions,
            "equal_words": one.equal_words,
        }
        for one in checks
    }
    report = {**bundle.manifest.report, "providers": facts}
    return write_manifest(directory, replace(bundle.manifest, checked_providers=names, report=report))


def _captions(directory: Path, provider: str, pixels: Pixels) -> list[str]:
    contestant = Contestant(directory, provider)
    photos = (pixels[index : index + 1] for index in range(len(pixels)))
    return [contestant.text(contestant.write(contestant.encode(photo))[0]) for photo in photos]
