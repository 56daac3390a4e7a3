"""Logistic regression in numpy, and what says how good predicted probabilities are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Logistic",
    "ReliabilityBin",
    "area_under_roc",
    "calibration_error",
    "choose_penalty",
    "cross_predict",
    "fit_logistic",
    "reliability_bins",
    "risk_coverage",
]

Matrix = NDArray[np.float64]
Labels = NDArray[np.bool_]

_MOST_STEPS = 50
_SMALL_STEP = 1e-8
_LARGEST_LOGIT = 40.0


@dataclass(frozen=True)
class Logistic:
    """A fitted regression, for features as they are (not standardised)."""

    bias: float
    weights: Matrix
    """(features,)"""

    def predict(self, features: Matrix) -> Matrix:
        """Probabilities (rows,) for features (rows, features)."""
        return _sigmoid(self.bias + features @ self.weights)


@dataclass(frozen=True)
class ReliabilityBin:
    """Captions of similar confidence."""

    confidence: float
    """Their mean."""
    good: float
    """The share of them that is good; equal to the mean confidence where it is calibrated."""
    count: int


def fit_logistic(features: Matrix, labels: Labels, penalty: float) -> Logistic:
    """Fit by Newton's method.

    Args:
        features: (rows, features); standardised inside, so that the penalty treats them alike.
        labels: (rows,)
        penalty: Weight of the squared coefficients against the sum of log-losses; more than 0.

    Source: iteratively reweighted least squares; Hastie, Tibshirani, Friedman, "The Elements of Statistical
        Learning", 4.4.1, with a ridge penalty on all but the bias.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-9, scale, np.inf)  # what never varies says nothing
    design = np.concatenate((np.ones((len(features), 1)), (features - mean) / scale), axis=1)
    ridge = np.full(design.shape[1], penalty)
    ridge[0] = 1e-6
    coefficients = np.zeros(design.shape[1])
    for _ in range(_MOST_STEPS):
        predicted = _sigmoid(design @ coefficients)
        gradient = design.T @ (predicted - labels) + ridge * coefficients
        curvature = (design.T * (predicted * (1 - predicted))) @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        coefficients -= step
        if np.abs(step).max() < _SMALL_STEP:
            break
    weights = coefficients[1:] / scale
    return Logistic(float(coefficients[0] - weights @ mean), weights)


def cross_predict(
    features: Matrix, labels: Labels, penalty: float, *, folds: int = 5, seed: int = 0
) -> Matrix:
    """Predict each row by a regression that was fitted without it.

    Args:
        features: (rows, features)
        labels: (rows,)
        penalty: As for `fit_logistic`.
        folds: Parts that are left out in turn.
        seed: How rows are shared out.
    """
    part = np.random.default_rng(seed).permutation(len(features)) % folds
    predicted = np.empty(len(features))
    for fold in range(folds):
        fitted = fit_logistic(features[part != fold], labels[part != fold], penalty)
        predicted[part == fold] = fitted.predict(features[part == fold])
    return predicted


def choose_penalty(features: Matrix, labels: Labels, penalties: Sequence[float], *, seed: int = 0) -> float:
    """The penalty with the smallest log-loss on rows left out."""

    def loss(penalty: float) -> float:
        predicted = np.clip(cross_predict(features, labels, penalty, seed=seed), 1e-9, 1 - 1e-9)
        return float(-np.mean(np.where(labels, np.log(predicted), np.log1p(-predicted))))

    return min(penalties, key=loss)


def reliability_bins(confidences: Matrix, good: Labels, bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """Sort captions by confidence into groups of equal size, for a reliability diagram.

    Args:
        confidences: (rows,)
        good: (rows,)
        bins: How many groups; fewer where there are fewer captions.
    """
    order = np.argsort(confidences, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return tuple(
        ReliabilityBin(float(confidences[part].mean()), float(good[part].mean()), len(part)) for part in parts
    )


def calibration_error(confidences: Matrix, good: Labels, bins: int = 10) -> float:
    """Expected calibration error (0..1): the mean gap in a reliability diagram.

    Source: Naeini, Cooper, Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning",
        AAAI 2015; with groups of equal size.
    """
    groups = reliability_bins(confidences, good, bins)
    return sum(abs(group.confidence - group.good) * group.count for group in groups) / len(confidences)


def risk_coverage(confidences: Matrix, good: Labels) -> tuple[Matrix, Matrix]:
    """What saying nothing about the least certain photos buys.

    Returns:
        Coverage: the share of photos that are described, ascending to 1; risk: the share of bad captions
        among them. One point for each photo.

    Source: El-Yaniv, Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 2010.
    """
    order = np.argsort(-confidences, kind="stable")
    count = np.arange(1, len(order) + 1)
    return count / len(order), np.cumsum(~good[order]) / count


def area_under_roc(scores: Matrix, positive: Labels) -> float:
    """Probability that a positive has the higher score than a negative; ties count half."""
    negatives, positives = np.sort(scores[~positive]), scores[positive]
    lower = np.searchsorted(negatives, positives, side="left")
    not_higher = np.searchsorted(negatives, positives, side="right")
    wins = (lower + not_higher) / 2
    return float(wins.mean() / (~positive).sum())


def _sigmoid(logits: Matrix) -> Matrix:
    values: Matrix = 1 / (1 + np.exp(-np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)))
    return values
