"""The gate that an int8 bundle must pass: really int8, faster than fp32, and nearly as good.

Known ways to fail, each seen in the field: a "quantized" graph whose products onnxruntime folds back to
floats, one that is slower than fp32 (microsoft/onnxruntime#20052), and one that says something else
(huggingface/transformers.js#1051).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kiloword.export.operators import Products, products_that_run
from kiloword.export.recipes import Recipe
from kiloword.export.trial import (
    NEAR_DRAW,
    Contestant,
    Course,
    Pixels,
    agreement,
    company,
    race,
    time_figures,
    times_as_fast,
)
from kiloword.runtime.bundle import load_bundle
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.footprint import measure_footprint
from kiloword.runtime.quantization_spec import ProductFigures, QualityLimits, TrialFigures, VariantFigures
from kiloword.train.datasets import CaptionRecord
from kiloword.train.evaluation import evaluate

logger = logging.getLogger(__name__)

FP32 = "fp32"
COMPANY_TOLERANCE = 1e-3
"""Relative change of an encoding by other photos in its batch that rounding explains: static int8 and
weight-only have 0 or nearly so, dynamic ranges 0.03 and more."""
_DRAW = 0.02
"""Recipes whose speeds differ by less than this are equally fast: the more exact one is taken."""


@dataclass(frozen=True)
class CaptionedPhotos:
    """Photos with captions by people, to measure quality on."""

    name: str
    records: Sequence[CaptionRecord]


@dataclass(frozen=True)
class Verdict:
    """What was measured, and of which recipes."""

    fp32: VariantFigures
    trials: tuple[TrialFigures, ...]
    """In the order in which the recipes were given."""
    rounds: int

    def best(self) -> TrialFigures | None:
        """The fastest of those that pass; None where none does."""
        passed = [one for one in self.trials if not one.refused]
        # Where quality was measured, those that were not reached are slower and unknown.
        scored = [one for one in passed if one.figures.cider is not None]
        return _fastest(scored or passed) if passed else None

    def least_bad(self) -> TrialFigures:
        """What ``--force`` takes where none passes."""
        return max(self.trials, key=lambda one: (-len(one.refused), one.equal_words, one.times_as_fast))


def _fastest(trials: Sequence[TrialFigures]) -> TrialFigures:
    most = max(one.times_as_fast for one in trials)
    return max(
        (one for one in trials if one.times_as_fast > most * (1 - _DRAW)), key=lambda one: one.equal_words
    )


def hold_trial(
    fp32: Path,
    variants: Mapping[str, Path],
    recipes: Sequence[Recipe],
    pixels: Pixels,
    limits: QualityLimits,
    captioned: CaptionedPhotos | None = None,
) -> Verdict:
    """Measures variants beside fp32 and judges each.

    Args:
        fp32: directory of the fp32 bundle.
        variants: directory of the int8 bundle of each recipe, by its name.
        recipes: what to judge.
        pixels: uint8 (photos, height, width, 3), to caption.
        limits: what may be lost, what must be gained.
        captioned: to measure CIDEr-D and BLEU-4 on; None: they are not measured.
    """
    directories = {FP32: fp32, **{recipe.name: variants[recipe.name] for recipe in recipes}}
    contestants = {name: Contestant(path) for name, path in directories.items()}

    def is_open(courses: Mapping[str, Course]) -> bool:
        ratios = [times_as_fast(courses[recipe.name], courses[FP32]) for recipe in recipes]
        return any(abs(ratio - limits.min_times_as_fast) < NEAR_DRAW for ratio in ratios)

    courses, rounds = race(contestants, pixels, is_open)
    company_of = {recipe.name: company(contestants[recipe.name], pixels) for recipe in recipes}
    texts = {
        name: [contestants[name].text(ids) for ids in course.tokens[: len(pixels)]]
        for name, course in courses.items()
    }
    contestants.clear()  # frees the graphs before others are weighed
    reference = _figures(fp32, courses[FP32])
    trials = []
    for recipe in recipes:
        equal_captions, equal_words = agreement(texts[FP32], texts[recipe.name])
        alone, difference = company_of[recipe.name]
        trial = TrialFigures(
            recipe=recipe.name,
            figures=_figures(directories[recipe.name], courses[recipe.name]),
            times_as_fast=round(times_as_fast(courses[recipe.name], courses[FP32]), 3),
            equal_captions=equal_captions,
            equal_words=equal_words,
            alone_as_in_batch=alone,
            batch_difference=difference,
        )
        trials.append(replace(trial, refused=tuple(reasons(trial, reference, recipe, limits))))
    verdict = Verdict(reference, tuple(trials), rounds)
    return verdict if captioned is None else _with_quality(verdict, directories, captioned, limits)


def reasons(trial: TrialFigures, fp32: VariantFigures, recipe: Recipe, limits: QualityLimits) -> list[str]:
    """Why the gate refuses a variant, with the figures; empty: it does not."""
    found = [
        f"the int8 {graph} multiplies no bytes when it runs"
        for graph, products in (("encoder", trial.figures.encoder), ("decoder", trial.figures.decoder))
        if not products.integer_operators
    ]
    if trial.times_as_fast < limits.min_times_as_fast:
        found.append(
            f"it is too slow: {trial.figures.photo_ms.median:.2f} ms per photo, "
            f"fp32 {fp32.photo_ms.median:.2f} ms "
            f"({trial.times_as_fast:.2f}x; {limits.min_times_as_fast:g}x or more is expected)"
        )
    if trial.equal_words < limits.min_equal_words:
        found.append(
            f"it says other things than fp32: {trial.equal_words:.0%} equal words "
            f"({limits.min_equal_words:.0%} or more are expected)"
        )
    if recipe.batch_invariant and trial.batch_difference > COMPANY_TOLERANCE:
        found.append(
            f"a photo's encoding depends on what else is in its batch: {trial.batch_difference:.2g} of "
            f"change ({COMPANY_TOLERANCE:g} or less is expected)"
        )
    return [*found, *_losses(trial.figures, fp32, limits)]


def _losses(figures: VariantFigures, fp32: VariantFigures, limits: QualityLimits) -> list[str]:
    pairs = (("CIDEr-D", fp32.cider, figures.cider), ("BLEU-4", fp32.bleu_4, figures.bleu_4))
    return [
        f"it loses {before - after:.1f} points of {name} ({before:.1f} -> {after:.1f}; "
        f"{limits.max_loss:g} or fewer may be lost)"
        for name, before, after in pairs
        if before is not None and after is not None and before - after > limits.max_loss
    ]


def _figures(directory: Path, course: Course) -> VariantFigures:
    bundle = load_bundle(directory)
    footprint = measure_footprint(directory)
    return VariantFigures(
        bytes=bundle.size_bytes,
        load_ms=footprint.load_ms,
        peak_rss_bytes=footprint.peak_rss_bytes,
        photo_ms=time_figures(course.photo_ms),
        token_ms=time_figures(course.token_ms),
        encoder=_products(products_that_run(bundle.encoder_path)),
        decoder=_products(products_that_run(bundle.decoder_path)),
    )


def _products(found: Products) -> ProductFigures:
    return ProductFigures(found.integer_operators, found.float_products)


def _with_quality(
    verdict: Verdict, directories: Mapping[str, Path], captioned: CaptionedPhotos, limits: QualityLimits
) -> Verdict:
    """Scores fp32 and, the fastest first, the recipes that are still in, until one passes."""
    fp32 = _scored(verdict.fp32, directories[FP32], captioned)
    verdict = replace(verdict, fp32=fp32)
    while (trial := _next_to_score(verdict)) is not None:
        figures = _scored(trial.figures, directories[trial.recipe], captioned)
        refused = (*trial.refused, *_losses(figures, fp32, limits))
        scored = replace(trial, figures=figures, refused=refused)
        trials = tuple(scored if one.recipe == trial.recipe else one for one in verdict.trials)
        verdict = replace(verdict, trials=trials)
    return verdict


def _next_to_score(verdict: Verdict) -> TrialFigures | None:
    scored = [one for one in verdict.trials if one.figures.cider is not None]
    if any(not one.refused for one in scored):
        return None
    left = [one for one in verdict.trials if not one.refused]
    if left:
        return _fastest(left)
    # Where all are refused already, figures are still wanted: somebody may force one.
    return None if scored else verdict.least_bad()


def _scored(figures: VariantFigures, directory: Path, captioned: CaptionedPhotos) -> VariantFigures:
    logger.info("captioning %d photos of %s with %s", len(captioned.records), captioned.name, directory.name)
    with Captioner.load(directory, provider="cpu") as captioner:
        scores = evaluate(captioner, captioned.records).scores
    return replace(figures, cider=round(scores.cider, 2), bleu_4=round(scores.bleu_4, 2))
