"""Logistic regression and the measures of probabilities, on data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from kiloword.train.logistic import (
    area_under_roc,
    calibration_error,
    choose_penalty,
    cross_predict,
    fit_logistic,
    reliability_bins,
    risk_coverage,
)


def sample(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features on different scales, true probabilities 1 / (1 + e^-(0.5 + 2 a - 0.01 b)), and labels."""
    random = np.random.default_rng(seed)
    features = np.stack(
        (random.standard_normal(rows), 50 + 100 * random.standard_normal(rows), np.full(rows, 3.0)), axis=1
    )
    truth = 1 / (1 + np.exp(-(0.5 + 2 * features[:, 0] - 0.01 * features[:, 1])))
    return features, truth, random.random(rows) < truth


def test_the_true_coefficients_are_found() -> None:
    features, truth, labels = sample(40_000)
    fitted = fit_logistic(features, labels, penalty=1e-3)
    assert fitted.weights[:2] == pytest.approx([2, -0.01], rel=0.05)
    assert fitted.weights[2] == 0  # a feature that never varies
    assert fitted.bias == pytest.approx(0.5, abs=0.06)
    assert np.abs(fitted.predict(features) - truth).max() < 0.03


def test_the_fit_has_the_smallest_penalised_loss() -> None:
    """Whatever coefficient is moved, either way, the loss of the definition grows."""
    features, _, labels = sample(300)
    features = (features[:, :2] - features[:, :2].mean(axis=0)) / features[:, :2].std(axis=0)
    fitted = fit_logistic(features, labels, penalty=5.0)

    def loss(bias: float, weights: np.ndarray) -> float:
        predicted = 1 / (1 + np.exp(-(bias + features @ weights)))
        fit = -np.where(labels, np.log(predicted), np.log(1 - predicted)).sum()
        return float(fit + 5.0 / 2 * (weights**2).sum())

    least = loss(fitted.bias, fitted.weights)
    for step in (-1e-3, 1e-3):
        assert loss(fitted.bias + step, fitted.weights) > least
        for column in range(2):
            moved = fitted.weights.copy()
            moved[column] += step
            assert loss(fitted.bias, moved) > least


def test_parts_that_separate_do_not_break_the_fit() -> None:
    features = np.linspace(-1, 1, 50)[:, None]
    fitted = fit_logistic(features, features[:, 0] > 0, penalty=0.1)
    assert np.isfinite(fitted.weights).all()
    assert ((fitted.predict(features) > 0.5) == (features[:, 0] > 0)).all()


def test_noise_is_fitted_with_a_large_penalty_and_signal_with_a_small_one() -> None:
    random = np.random.default_rng(1)
    noise = random.standard_normal((200, 60))
    assert choose_penalty(noise, random.random(200) < 0.5, (0.1, 1000.0)) == 1000.0
    features, _, labels = sample(400)
    assert choose_penalty(features, labels, (0.1, 1000.0)) == 0.1


def test_cross_prediction_does_not_know_the_answer() -> None:
    """With as many features as rows a fit repeats the labels; what it was not shown it cannot guess."""
    random = np.random.default_rng(2)
    features, labels = random.standard_normal((120, 120)), random.random(120) < 0.5
    assert area_under_roc(fit_logistic(features, labels, 0.1).predict(features), labels) > 0.99
    assert abs(area_under_roc(cross_predict(features, labels, 0.1), labels) - 0.5) < 0.2


def test_true_probabilities_are_calibrated_and_their_squares_are_not() -> None:
    _, truth, labels = sample(20_000)
    assert calibration_error(truth, labels) < 0.01
    gap = np.abs(truth**2 - truth).mean()  # what the error must come to
    assert calibration_error(truth**2, labels) == pytest.approx(gap, abs=0.01)


def test_reliability_bins_by_hand() -> None:
    bins = reliability_bins(np.array([0.9, 0.1, 0.2, 0.8]), np.array([True, False, True, True]), bins=2)
    assert [(one.confidence, one.good, one.count) for one in bins] == [
        (pytest.approx(0.15), 0.5, 2),
        (pytest.approx(0.85), 1.0, 2),
    ]
    assert sum(one.count for one in reliability_bins(np.ones(7), np.ones(7, bool), bins=10)) == 7


def test_risk_coverage_by_hand() -> None:
    """From the most certain on: good, bad, good."""
    coverage, risk = risk_coverage(np.array([0.2, 0.9, 0.5]), np.array([True, True, False]))
    assert coverage == pytest.approx([1 / 3, 2 / 3, 1])
    assert risk == pytest.approx([0, 1 / 2, 1 / 3])


def test_area_under_roc_is_the_share_of_pairs_in_order() -> None:
    """All pairs counted; ties count half."""
    random = np.random.default_rng(3)
    scores, positive = random.integers(0, 10, 80).astype(float), random.random(80) < 0.4
    pairs = [(one > other) + (one == other) / 2 for one in scores[positive] for other in scores[~positive]]
    assert area_under_roc(scores, positive) == pytest.approx(np.mean(pairs))
