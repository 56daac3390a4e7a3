"""Fits the numbers by which a bundle says how far to trust its captions, and writes them into it.

Two thirds of the validation photos fit the models and choose the thresholds, the last third only tells how
well they do. docs/HONESTY.md explains the method and says what was measured.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiloword.runtime.bundle import Bundle, load_bundle, write_manifest
from kiloword.runtime.errors import ConfigError
from kiloword.runtime.reliability import caption_features
from kiloword.runtime.reliability_spec import FEATURES, LinearModel, ReliabilitySpec
from kiloword.runtime.sessions import load_sessions
from kiloword.train.datasets import CaptionRecord
from kiloword.train.logistic import (
    Logistic,
    area_under_roc,
    calibration_error,
    choose_penalty,
    cross_predict,
    fit_logistic,
    reliability_bins,
)
from kiloword.train.metrics.cider import CiderScorer
from kiloword.train.metrics.scores import tokenize_captions
from kiloword.train.observations import Observations, observe_nonphotos, observe_photos, pooled_output_of

__all__ = ["GOOD_CIDER", "CalibrationSettings", "calibrate", "fit_reliability", "photo_ciders"]

logger = logging.getLogger(__name__)

GOOD_CIDER = 40.0
"""A caption is good from this CIDEr-D (times 100) on: seven of ten captions that people wrote for Flickr8k's
validation photos reach it against the other four."""

_PENALTIES = (1.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
_PHOTO_PENALTY = 30.0
_FEWEST_PHOTOS = 30
_CAPTION_COLUMNS = len(caption_features(()))

Matrix = NDArray[np.float64]
Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class CalibrationSettings:
    """What a person chooses; the rest is fitted."""

    good_cider: float = GOOD_CIDER
    """A caption is good from this CIDEr-D on, times 100."""
    lost_share: float = 0.01
    """Share of true photos that may be taken for something else; and share that may be too uncertain."""
    sure_from: float = 0.5
    """Below this confidence a caption is said with "probably"."""
    nonphotos: int = 600
    """Pictures that are no photos, made by rules."""
    check_share: float = 1 / 3
    """Share of the photos that fit nothing and tell how well it went."""
    seed: int = 0


def calibrate(
    directory: Path,
    sources: Mapping[str, Sequence[CaptionRecord]],
    settings: CalibrationSettings,
    *,
    provider: str = "auto",
    threads: int | None = None,
    cache: Path | None = None,
) -> ReliabilitySpec:
    """Fit on validation photos and write the numbers into the bundle's manifest; its files stay as they are.

    Args:
        directory: The bundle.
        sources: For each data set its photos. CIDEr-D counts rare words over each data set by itself.
        settings: What a person chooses.
        provider: What runs the graphs.
        threads: Threads for one operator.
        cache: Folder that keeps captions and features for the next time.

    Returns:
        What was written.

    Raises:
        BundleError: There is no bundle, or it is damaged.
        ConfigError: There are too few photos, or their captions are all good or all bad.
    """
    _check_count(sum(map(len, sources.values())))
    bundle = load_bundle(directory)
    sessions = load_sessions(bundle, provider, threads)
    photos = []
    for name, records in sources.items():
        logger.info("%s: %d photos", name, len(records))
        photos.append(observe_photos(bundle, sessions, records, cache=cache))
    _check_count(sum(len(found.rows) for found in photos), "that can be read")
    ciders = [
        photo_ciders([records[row] for row in found.rows], found.captions)
        for records, found in zip(sources.values(), photos, strict=True)
    ]
    altered = [
        observe_photos(bundle, sessions, records, altered=True, cache=cache) for records in sources.values()
    ]
    made = observe_nonphotos(bundle, sessions, settings.nonphotos, settings.seed, cache=cache)
    spec = fit_reliability(
        _joined(photos), np.concatenate(ciders), _joined(altered), made, settings, pooled_output_of(bundle)
    )
    # The folders of this machine are nobody's business.
    facts = {**spec.facts, "data": {Path(name).name: len(records) for name, records in sources.items()}}
    spec = replace(spec, facts=facts)
    _write(bundle, spec)
    return spec


def _check_count(found: int, which: str = "with captions") -> None:
    if found < _FEWEST_PHOTOS:
        raise ConfigError([f"calibration needs {_FEWEST_PHOTOS} photos {which} or more, found {found}"])


def fit_reliability(
    photos: Observations,
    ciders: Matrix,
    altered: Observations,
    nonphotos: Observations,
    settings: CalibrationSettings,
    pooled_output: str | None,
) -> ReliabilitySpec:
    """Fit both models and choose the thresholds.

    Args:
        photos: Captioned photos.
        ciders: (photos,) CIDEr-D of each, times 100.
        altered: The same photos in the same order, changed; without captions.
        nonphotos: Pictures of other kinds; without captions.
        settings: What a person chooses.
        pooled_output: The encoder's output that ``pooled`` was made from.

    Raises:
        ConfigError: The captions are all good or all bad.
    """
    good = ciders >= settings.good_cider
    if good.all() or not good.any():
        which = "good" if good.all() else "bad"
        raise ConfigError(
            [f"all captions are {which} by a CIDEr of {settings.good_cider:g}: nothing to learn"]
        )
    check = np.random.default_rng(settings.seed).random(len(ciders)) < settings.check_share
    fit = ~check
    features = photos.features
    penalty = choose_penalty(features[fit], good[fit], _PENALTIES, seed=settings.seed)
    good_model = fit_logistic(features[fit], good[fit], penalty)
    # Thresholds stand on predictions for rows that the model has not seen, as later photos are.
    unseen = cross_predict(features[fit], good[fit], penalty, seed=settings.seed)
    reliable_from = min(float(np.quantile(unseen, settings.lost_share)), settings.sure_from)
    photo_model, photo_from = _fit_photo(photos, altered, nonphotos, fit, settings.lost_share)
    facts = {
        "good_cider": settings.good_cider,
        "good_share": _short(good.mean()),
        "fitted_on": int(fit.sum()),
        "checked_on": int(check.sum()),
        "nonphotos": len(nonphotos.features),
        "penalty": penalty,
        "check": {
            **_check_confidence(good_model.predict(features[check]), good[check], settings.sure_from),
            "too_uncertain": _short((good_model.predict(features[check]) < reliable_from).mean()),
            "taken_for_no_photo": _short(
                (photo_model.predict(_of_pictures(photos)[check]) < photo_from).mean()
            ),
            "altered_taken_for_no_photo": _short(
                (photo_model.predict(_of_pictures(altered)[check]) < photo_from).mean()
            ),
        },
    }
    width = photos.pooled.shape[1]
    return ReliabilitySpec(
        good=_linear(good_model, FEATURES),
        photo=_linear(photo_model, FEATURES[_CAPTION_COLUMNS:]),
        photo_from=_short(photo_from),
        reliable_from=_short(reliable_from),
        sure_from=settings.sure_from,
        pooled_output=pooled_output if width else None,
        facts=facts,
    )


def photo_ciders(records: Sequence[CaptionRecord], captions: Sequence[str]) -> Matrix:
    """CIDEr-D (times 100) of each photo's caption, by the own tokenizer, which runs everywhere."""
    tokens = tokenize_captions([record.captions for record in records], captions, "own")
    return 100 * CiderScorer(tokens.references).scores(tokens.candidates)


def _fit_photo(
    photos: Observations, altered: Observations, nonphotos: Observations, fit: Labels, lost_share: float
) -> tuple[Logistic, float]:
    """The model that tells photos from other pictures, and the probability from which on it says photo."""
    parts = [_of_pictures(photos)[fit], _of_pictures(altered)[fit], _of_pictures(nonphotos)]
    rows = np.concatenate(parts)
    labels = np.arange(len(rows)) < len(parts[0]) + len(parts[1])
    unseen = cross_predict(rows, labels, _PHOTO_PENALTY)[: len(parts[0])]
    return fit_logistic(rows, labels, _PHOTO_PENALTY), float(np.quantile(unseen, lost_share))


def _check_confidence(confidence: Matrix, good: Labels, sure_from: float) -> dict[str, Any]:
    """How good the probabilities are for photos that fitted nothing."""
    sure = confidence >= sure_from
    return {
        "calibration_error": _short(calibration_error(confidence, good)),
        "area_under_roc": _short(area_under_roc(confidence, good)),
        "brier": _short(np.mean((confidence - good) ** 2)),
        "good_share": _short(good.mean()),
        "sure_share": _short(sure.mean()),
        "good_share_where_sure": _short(good[sure].mean()) if sure.any() else None,
        "bins": [
            {"confidence": _short(one.confidence), "good": _short(one.good), "count": one.count}
            for one in reliability_bins(confidence, good)
        ],
    }


def _of_pictures(observed: Observations) -> Matrix:
    """Columns that need no caption: the pixels' features and the pooled output."""
    return np.concatenate((observed.features[:, _CAPTION_COLUMNS:], observed.pooled), axis=1)


def _linear(fitted: Logistic, names: Sequence[str]) -> LinearModel:
    """Name the weights; what comes after the features is for the pooled output."""
    weights = [_short(weight) for weight in fitted.weights]
    named = dict(zip(names, weights, strict=False))
    return LinearModel(_short(fitted.bias), named, tuple(weights[len(names) :]))


def _short(value: float | np.floating[Any]) -> float:
    """Six digits: all that matters, and a manifest that one can still read."""
    return float(f"{value:.6g}")


def _joined(parts: Sequence[Observations]) -> Observations:
    return Observations(
        features=np.concatenate([part.features for part in parts]),
        pooled=np.concatenate([part.pooled for part in parts]),
        captions=tuple(caption for part in parts for caption in part.captions),
        rows=np.concatenate([part.rows for part in parts]),
    )


def _write(bundle: Bundle, spec: ReliabilitySpec) -> None:
    """Only `bundle.json` changes: the other files are hashed again and are what they were."""
    write_manifest(bundle.directory, replace(bundle.manifest, reliability=spec))
