"""An int8 bundle from an fp32 one: try recipes, let the gate judge, write the best with what was measured."""

from __future__ import annotations

import itertools
import logging
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kiloword.export.card import CARD_FILE, variant_card
from kiloword.export.gate import CaptionedPhotos, Verdict, hold_trial
from kiloword.export.graph_files import copy_beside_graphs, copy_graph
from kiloword.export.photos import Calibration
from kiloword.export.quantize import count_convolutions, quantize_decoder, quantize_encoder
from kiloword.export.recipes import AUTO, Purpose, Recipe, candidates
from kiloword.runtime.bundle import Bundle, load_bundle, write_manifest
from kiloword.runtime.errors import ExportError
from kiloword.runtime.machine import processor_name
from kiloword.runtime.manifest import GraphSpec, Manifest
from kiloword.runtime.quantization_spec import (
    QualityLimits,
    QuantizationSpec,
    TrialFigures,
    quantization_table,
)

__all__ = ["PHOTOS", "QualityLimits", "QuantizeOptions", "quantize_bundle"]

logger = logging.getLogger(__name__)

PHOTOS = 32
"""How many are captioned in each round."""
_MOST_REASONS = 4


@dataclass(frozen=True)
class QuantizeOptions:
    """What is asked of `quantize_bundle`."""

    recipe: str = AUTO
    """``auto``, or a name that `recipes.read_recipe` knows."""
    purpose: Purpose = "reproducible"
    """What ``auto`` tries: only recipes that keep a caption apart from its neighbours in a batch, or all."""
    reduce_range: bool = False
    """Keep weights to 7 bits."""
    limits: QualityLimits = field(default_factory=QualityLimits)
    force: bool = False
    """Write the bundle although the gate refuses it."""


def quantize_bundle(
    source: Path,
    target: Path,
    photos: Calibration,
    options: QuantizeOptions = QuantizeOptions(),
    captioned: CaptionedPhotos | None = None,
) -> Bundle:
    """Makes an int8 bundle of an fp32 one; needs no torch.

    Args:
        source: directory of the fp32 bundle.
        target: directory to write; must not be there yet.
        photos: to measure ranges on, and to caption.
        options: which recipes are tried and what they may cost.
        captioned: to measure CIDEr-D and BLEU-4 on.

    Returns:
        The bundle; its manifest's ``quantization`` has all figures.

    Raises:
        ConfigError: there is no such recipe.
        ExportError: the source is not fp32, or the gate refuses every recipe.
    """
    recipes = candidates(options.recipe, options.purpose)
    fp32 = load_bundle(source)
    if fp32.manifest.precision != "fp32":
        raise ExportError(
            "cannot be quantized",
            path=source,
            expected="a bundle in fp32",
            found=fp32.manifest.precision,
            hint="kiloword export CHECKPOINT --quantize",
        )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".recipes-") as folder:
        variants, facts = _make_variants(fp32, Path(folder), recipes, photos, options)
        verdict = hold_trial(source, variants, recipes, photos.pixels[:PHOTOS], options.limits, captioned)
        chosen = _choose(verdict, options)
        shutil.copytree(variants[chosen.recipe], target)
    recipe = next(one for one in recipes if one.name == chosen.recipe)
    spec = _spec(recipe, chosen, verdict, options, min(len(photos.pixels), PHOTOS), captioned)
    return _finish(target, spec, facts[chosen.recipe], fp32)


def _make_variants(
    fp32: Bundle, folder: Path, recipes: Sequence[Recipe], photos: Calibration, options: QuantizeOptions
) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
    """A bundle for each recipe, and how it was made; a graph that two recipes share is made once."""
    encoders: dict[str, tuple[Path, list[str]]] = {}
    decoders: dict[str, tuple[Path, list[str]]] = {}
    for number, recipe in enumerate(recipes):
        if recipe.encoder not in encoders:
            logger.info("encoder to int8: %s", recipe.encoder)
            path = _place(folder / f"encoder-{number}", fp32.manifest.encoder)
            outliers = quantize_encoder(
                fp32.encoder_path, path, photos.pixels, recipe.encoder, reduce_range=options.reduce_range
            )
            encoders[recipe.encoder] = (path, outliers)
        if recipe.decoder not in decoders:
            logger.info("decoder to int8: %s", recipe.decoder)
            path = _place(folder / f"decoder-{number}", fp32.manifest.decoder)
            outliers = quantize_decoder(
                fp32, path, photos.pixels, recipe.decoder, reduce_range=options.reduce_range
            )
            decoders[recipe.decoder] = (path, outliers)
    variants, facts = {}, {}
    for recipe in recipes:
        (encoder, upper), (decoder, lower) = encoders[recipe.encoder], decoders[recipe.decoder]
        variants[recipe.name] = _assemble(fp32, folder / recipe.name, encoder, decoder)
        facts[recipe.name] = {
            "products_with_outliers": [*upper, *lower],
            "convolutions_in_float32": count_convolutions(encoder),
            "calibration": {"photos": len(photos.pixels), "source": photos.source},
        }
    return variants, facts


def _place(directory: Path, spec: GraphSpec) -> Path:
    """Where a graph is made: in a directory of its own, for its weights are found by its final name."""
    directory.mkdir()
    return directory / spec.file


def _assemble(fp32: Bundle, directory: Path, encoder: Path, decoder: Path) -> Path:
    """The fp32 bundle with other graphs in it."""
    directory.mkdir()
    copy_beside_graphs(fp32, directory)
    copy_graph(encoder, directory)
    copy_graph(decoder, directory)
    write_manifest(directory, _without_measurements(fp32.manifest))
    return directory


def _without_measurements(manifest: Manifest) -> Manifest:
    """What an fp32 bundle says that holds for its int8 variant, too."""
    if manifest.reliability is not None:
        logger.warning("reliability was calibrated for fp32 and is left out: run `kiloword calibrate` again")
    return replace(
        manifest, precision="int8", reliability=None, quantization=None, checked_providers=("cpu",)
    )


def _choose(verdict: Verdict, options: QuantizeOptions) -> TrialFigures:
    best = verdict.best()
    if best is not None:
        return best
    worst = verdict.least_bad()
    if options.force:
        return worst
    for trial in verdict.trials:
        for reason in trial.refused:
            logger.warning("%s: %s", trial.recipe, reason)
    reasons = itertools.chain.from_iterable(
        (f"{one.recipe}: {reason}" for reason in one.refused) for one in verdict.trials
    )
    raise ExportError(
        "int8 is refused: " + "; ".join(itertools.islice(reasons, _MOST_REASONS)),
        hint="--calibration FOLDER with photos like those of the training, or --force to overrule",
    )


def _spec(
    recipe: Recipe,
    chosen: TrialFigures,
    verdict: Verdict,
    options: QuantizeOptions,
    photos: int,
    captioned: CaptionedPhotos | None,
) -> QuantizationSpec:
    return QuantizationSpec(
        recipe=recipe.name,
        encoder=recipe.encoder,
        decoder=recipe.decoder,
        batch_invariant=recipe.batch_invariant,
        reduce_range=options.reduce_range,
        forced=bool(chosen.refused),
        refused=chosen.refused,
        limits=options.limits,
        processor=processor_name(),
        threads=1,
        photos=photos,
        rounds=verdict.rounds,
        dataset=None if captioned is None else captioned.name,
        dataset_photos=0 if captioned is None else len(captioned.records),
        fp32=verdict.fp32,
        tried=verdict.trials,
    )


def _finish(directory: Path, spec: QuantizationSpec, facts: Mapping[str, Any], fp32: Bundle) -> Bundle:
    """Writes what was measured into manifest and card."""
    table = quantization_table(spec)
    for line in ["int8 against fp32:", *table.splitlines()]:
        logger.info("%s", line)
    if spec.forced:
        logger.warning("the gate refused this bundle: %s", "; ".join(spec.refused))
    if not spec.batch_invariant:
        logger.warning(
            "a photo's caption may depend on the others in its batch; --for reproducible avoids it"
        )
    card = fp32.directory / CARD_FILE
    if card.is_file():
        text = variant_card(card.read_text(encoding="utf-8"), "fp32", "int8", table)
        (directory / CARD_FILE).write_text(text, encoding="utf-8")
    manifest = load_bundle(directory).manifest
    made = {
        "encoder": spec.encoder,
        "decoder": spec.decoder,
        **facts,
        "reduce_range": spec.reduce_range,
        "system": platform.system(),
    }
    provenance = {**manifest.provenance, "quantization": made}
    return write_manifest(directory, replace(manifest, provenance=provenance, quantization=spec))
