"""Calibrated probabilities equal scikit-learn's own calibrated predict_proba."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV

from router_model.estimators import (
    CANDIDATES,
    FOLDS,
    calibrated_across,
    fit_classifier,
    fit_constant,
    fit_curve,
    held_out_scores,
    is_learnable,
    scorer_of,
)
from router_model.metrics import log_loss

RNG = np.random.default_rng(5)
ROWS = RNG.normal(size=(250, 5))
LABELS = ROWS[:, 0] + ROWS[:, 1] ** 2 + RNG.normal(size=250) > 1


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda each: each.name)
def test_probabilities_agree_with_predict_proba_to_a_millionth(candidate, method: str) -> None:  # type: ignore[no-untyped-def]
    reference = CalibratedClassifierCV(
        candidate.classifier(), method=method, cv=FOLDS, ensemble=False
    ).fit(ROWS, LABELS)
    curve = fit_curve(held_out_scores(candidate, ROWS, LABELS), LABELS, method)
    raw = scorer_of(candidate.classifier().fit(ROWS, LABELS)).score(ROWS)[:, 0]
    np.testing.assert_allclose(
        curve.probability(raw), reference.predict_proba(ROWS)[:, 1], atol=1e-6
    )


def test_held_out_probabilities_are_worse_than_fitted_ones() -> None:
    candidate = CANDIDATES[1]
    fitted = fit_classifier(candidate, ROWS, LABELS, held_out_scores(candidate, ROWS, LABELS))
    seen = fitted.calibration.probability(fitted.scorer.score(ROWS)[:, 0])
    assert log_loss(seen, LABELS) < log_loss(fitted.held_out, LABELS) < 0.69


def test_a_fold_s_curve_is_fitted_on_the_other_folds() -> None:
    scores = held_out_scores(CANDIDATES[0], ROWS, LABELS)
    before = calibrated_across(scores, LABELS)
    _, fold = next(iter(FOLDS.split(scores, LABELS)))
    moved = scores.copy()
    moved[fold] += 100.0
    after = calibrated_across(moved, LABELS)
    assert (after[fold] >= before[fold]).all()
    assert after[fold].min() > 0.99


def test_one_kind_of_label_gives_its_share_and_nothing_else() -> None:
    labels = np.ones(98, dtype=np.bool_)
    assert not is_learnable(labels)
    fitted = fit_constant(ROWS[:98], labels)
    found = fitted.calibration.probability(fitted.scorer.score(ROWS)[:, 0])
    np.testing.assert_allclose(found, 0.99)
