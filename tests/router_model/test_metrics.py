"""Figures of merit follow their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from router_model.metrics import (
    _isotonic,
    apgr,
    auroc,
    auroc_within,
    bootstrap,
    brier,
    calibration_error,
    cpt,
    gap_recovered,
    log_loss,
)

RNG = np.random.default_rng(1)


def test_auroc_is_scikit_learn_s_also_with_ties() -> None:
    labels = RNG.random(500) < 0.3
    scores = np.round(labels + RNG.normal(size=500), 1)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_auroc_of_one_kind_is_undefined_and_left_out_of_families() -> None:
    labels = np.array([True, True, False, True])
    assert np.isnan(auroc(np.ones(2), labels[:2]))
    families = np.array(["a", "a", "b", "b"])
    assert auroc_within(np.array([0.1, 0.2, 0.3, 0.4]), labels, families) == {"b": 1.0}


def test_true_probabilities_are_calibrated_and_shifted_ones_are_not() -> None:
    chances = RNG.random(20_000)
    labels = RNG.random(20_000) < chances
    assert calibration_error(chances, labels) < 0.015
    assert calibration_error(chances * 0.5, labels) == pytest.approx(0.25, abs=0.02)


def test_brier_and_log_loss_by_hand() -> None:
    said, labels = np.array([0.8, 0.4]), np.array([True, False])
    assert brier(said, labels) == pytest.approx((0.04 + 0.16) / 2)
    assert log_loss(said, labels) == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)


def gap(scores: np.ndarray) -> np.ndarray:
    weak = np.array([True, False, False, True, False] * 40)
    return gap_recovered(scores, weak, np.ones(200, dtype=np.bool_))


def test_a_perfect_router_sends_the_weak_model_s_failures_first() -> None:
    weak = np.array([True, False, False, True, False] * 40)
    curve = gap(weak.astype(np.float64))
    assert curve[0] == 0.0
    assert curve[-1] == pytest.approx(1.0)
    assert cpt(curve, 0.5) == pytest.approx(0.3)
    assert apgr(curve) == pytest.approx(0.7)


def test_a_router_that_knows_nothing_is_a_random_mix() -> None:
    curve = gap(np.zeros(200))
    assert apgr(curve) == pytest.approx(0.5)
    assert cpt(curve, 0.5) == pytest.approx(0.5)
    assert cpt(curve, 0.8) == pytest.approx(0.8)


def test_without_a_gap_there_is_nothing_to_recover() -> None:
    same = np.ones(5, dtype=np.bool_)
    curve = gap_recovered(np.arange(5.0), same, same)
    assert np.isnan(apgr(curve))
    assert np.isnan(cpt(curve, 0.5))


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_the_isotonic_fit_is_scikit_learn_s(values: list[float]) -> None:
    expected = IsotonicRegression().fit_transform(np.arange(len(values)), values)
    np.testing.assert_allclose(_isotonic(np.array(values)), expected, atol=1e-6)


def test_a_dip_does_not_count_as_reached() -> None:
    curve = np.array([0.0, 0.9, 0.1, 0.2, 0.3, 1.0])
    assert cpt(curve, 0.8) == 1.0


def test_an_interval_holds_its_estimate_and_narrows_with_data() -> None:
    few, many = RNG.normal(size=50), RNG.normal(size=5000)
    narrow = bootstrap(lambda rows: float(many[rows].mean()), 5000)
    wide = bootstrap(lambda rows: float(few[rows].mean()), 50)
    assert narrow.low < narrow.value < narrow.high
    assert narrow.high - narrow.low < (wide.high - wide.low) / 3
