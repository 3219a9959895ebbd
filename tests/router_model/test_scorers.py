"""Arrays score exactly as the scikit-learn estimators they came from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from router_model.estimators import CANDIDATES, merged, scorer_of
from router_model.scorers import Calibration, Forest, calibration_from, scorer_from

RNG = np.random.default_rng(3)
ROWS = RNG.normal(size=(400, 6))
LABELS = ROWS[:, 0] * ROWS[:, 1] + RNG.normal(size=400) > 0


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda each: each.name)
def test_raw_scores_agree_with_scikit_learn(candidate) -> None:  # type: ignore[no-untyped-def]
    model = candidate.classifier().fit(ROWS, LABELS)
    ours = scorer_of(model).score(ROWS)[:, 0]
    np.testing.assert_allclose(ours, model.decision_function(ROWS), atol=1e-9)


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda each: each.name)
def test_regressions_agree_with_scikit_learn(candidate) -> None:  # type: ignore[no-untyped-def]
    model = candidate.regressor().fit(ROWS, ROWS[:, 2] ** 2)
    ours = scorer_of(model).score(ROWS)[:, 0]
    np.testing.assert_allclose(ours, model.predict(ROWS), atol=1e-9)


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda each: each.name)
def test_merged_scorers_score_as_each_alone(candidate) -> None:  # type: ignore[no-untyped-def]
    wholes = [
        scorer_of(candidate.classifier().fit(ROWS, LABELS)),
        scorer_of(candidate.classifier().fit(ROWS[:200] * 3 + 1, ~LABELS[:200])),
        scorer_of(candidate.regressor().fit(ROWS, ROWS[:, 2])),
    ]
    together = merged(wholes).score(ROWS)
    apart = np.concatenate([each.score(ROWS) for each in wholes], axis=1)
    np.testing.assert_allclose(together, apart, atol=1e-9)


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda each: each.name)
def test_a_scorer_survives_being_arrays(candidate) -> None:  # type: ignore[no-untyped-def]
    whole = scorer_of(candidate.classifier().fit(ROWS, LABELS))
    np.testing.assert_array_equal(scorer_from(whole.arrays()).score(ROWS), whole.score(ROWS))


def test_scorers_of_several_kinds_can_be_merged() -> None:
    wholes = [scorer_of(candidate.classifier().fit(ROWS, LABELS)) for candidate in CANDIDATES]
    together = merged(wholes).score(ROWS)
    apart = np.concatenate([each.score(ROWS) for each in wholes], axis=1)
    np.testing.assert_allclose(together, apart, atol=1e-9)


def test_a_tree_of_one_leaf_is_a_constant() -> None:
    model = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=300).fit(ROWS, LABELS)
    forest = scorer_of(model)
    assert isinstance(forest, Forest)
    np.testing.assert_allclose(forest.score(ROWS)[:, 0], model.decision_function(ROWS), atol=1e-12)


def test_an_array_that_is_missing_is_an_error() -> None:
    with pytest.raises(KeyError):
        scorer_from({"feature": np.zeros(1)})


@given(st.floats(-50, 50), st.floats(0.01, 5))
def test_a_sigmoid_rises_with_the_score(score: float, slope: float) -> None:
    low, high = Calibration(-slope, 0.3).probability(np.array([score, score + 1]))
    assert 0.0 <= low <= high <= 1.0


def test_a_curve_is_flat_outside_its_knots() -> None:
    curve = Calibration(knots=(0.0, 1.0), heights=(0.2, 0.8))
    found = curve.probability(np.array([-9.0, 0.5, 9.0]))
    np.testing.assert_allclose(found, [0.2, 0.5, 0.8])


@pytest.mark.parametrize(
    "curve", [Calibration(-2.0, 0.1), Calibration(knots=(1.0,), heights=(0.3,))]
)
def test_a_curve_survives_being_arrays(curve: Calibration) -> None:
    assert calibration_from(curve.arrays()) == curve
