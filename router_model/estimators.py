"""Trains scikit-learn estimators and turns them into flat arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import _SigmoidCalibration
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from router_model.metrics import auroc, brier, calibration_error, log_loss
from router_model.scorers import Blend, Calibration, Floats, Forest, Linear, Scorer

Bools = NDArray[np.bool_]
FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)
METHODS = ("sigmoid", "isotonic")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kind of estimator that may be chosen: how to make one that classifies or regresses."""

    name: str
    classifier: Callable[[], Any]
    regressor: Callable[[], Any]


def boosted(name: str, **shape: Any) -> Candidate:
    """Gradient-boosted trees of a shape; equal data gives equal trees."""
    shape |= {"early_stopping": False, "random_state": 0}
    return Candidate(
        name,
        lambda: HistGradientBoostingClassifier(**shape),
        lambda: HistGradientBoostingRegressor(**shape),
    )


def logistic() -> Candidate:
    """A logistic regression of standardised features."""
    return Candidate(
        "logistic",
        lambda: make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)),
        lambda: make_pipeline(StandardScaler(), Ridge(10.0)),
    )


class BlendClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Half a logistic regression's log-odds, half those of boosted trees."""

    def __init__(self, linear: Any = None, trees: Any = None) -> None:
        self.linear = linear
        self.trees = trees

    def fit(self, rows: Floats, labels: Bools) -> BlendClassifier:
        """Fit both."""
        self.classes_ = np.unique(labels)
        self.linear_ = clone(self.linear).fit(rows, labels)
        self.trees_ = clone(self.trees).fit(rows, labels)
        return self

    def decision_function(self, rows: Floats) -> Floats:
        """(N,) mean log-odds."""
        both = self.linear_.decision_function(rows) + self.trees_.decision_function(rows)
        return np.asarray(both / 2, dtype=np.float64)

    def predict(self, rows: Floats) -> NDArray[np.generic]:
        """(N,) likelier labels."""
        return np.asarray(self.classes_[(self.decision_function(rows) > 0).astype(np.intp)])


def blended(linear: Candidate, trees: Candidate) -> Candidate:
    """The mean of two candidates' log-odds; lengths are regressed by the trees alone."""
    return Candidate(
        f"{linear.name} and {trees.name}",
        lambda: BlendClassifier(linear.classifier(), trees.classifier()),
        trees.regressor,
    )


SMALL = boosted(
    "boosted, small",
    max_iter=80,
    learning_rate=0.08,
    max_leaf_nodes=8,
    max_depth=6,
    min_samples_leaf=20,
    l2_regularization=1.0,
)
MIDDLE = boosted(
    "boosted, middle",
    max_iter=150,
    learning_rate=0.06,
    max_leaf_nodes=16,
    max_depth=6,
    min_samples_leaf=15,
    l2_regularization=2.0,
    max_features=0.5,
)
CANDIDATES: tuple[Candidate, ...] = (logistic(), SMALL, MIDDLE, blended(logistic(), MIDDLE))


class Fitted(NamedTuple):
    """A classifier as arrays; ``held_out``: (N,) calibrated probabilities made across folds."""

    scorer: Scorer
    calibration: Calibration
    held_out: Floats


def is_learnable(labels: Bools) -> bool:
    """Whether both labels occur often enough to be learnt across folds."""
    return bool(min(labels.sum(), (~labels).sum()) >= 2 * FOLDS.n_splits)


def held_out_scores(candidate: Candidate, rows: Floats, labels: Bools) -> Floats:
    """(N,) raw scores, each by an estimator that did not see its row."""
    scores: Floats = cross_val_predict(
        candidate.classifier(), rows, labels, cv=FOLDS, method="decision_function"
    )
    return scores


def figures(probabilities: Floats, labels: Bools) -> dict[str, float]:
    """How good probabilities are: log-loss, Brier, ECE, AUROC."""
    return {
        "log_loss": log_loss(probabilities, labels),
        "brier": brier(probabilities, labels),
        "ece": calibration_error(probabilities, labels),
        "auroc": auroc(probabilities, labels),
    }


def calibrated_across(scores: Floats, labels: Bools, method: str = "sigmoid") -> Floats:
    """(N,) probabilities; each fold's curve is fitted on the other folds."""
    result = np.empty_like(scores)
    for rest, fold in FOLDS.split(scores, labels):
        curve = fit_curve(scores[rest], labels[rest], method)
        result[fold] = curve.probability(scores[fold])
    return result


def fit_curve(scores: Floats, labels: Bools, method: str) -> Calibration:
    """scikit-learn's calibration curve, "sigmoid" or "isotonic", of held-out scores."""
    if method == "sigmoid":
        sigmoid = _SigmoidCalibration().fit(scores, labels)
        return Calibration(float(sigmoid.a_), float(sigmoid.b_))
    steps = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    return Calibration(
        knots=tuple(steps.X_thresholds_.tolist()), heights=tuple(steps.y_thresholds_.tolist())
    )


def fit_classifier(candidate: Candidate, rows: Floats, labels: Bools, scores: Floats) -> Fitted:
    """Fit on all rows; calibrated on held-out ``scores`` by the better of both methods."""
    across = {method: calibrated_across(scores, labels, method) for method in METHODS}
    method = min(METHODS, key=lambda each: log_loss(across[each], labels))
    scorer = scorer_of(candidate.classifier().fit(rows, labels))
    return Fitted(scorer, fit_curve(scores, labels, method), across[method])


def fit_constant(rows: Floats, labels: Bools) -> Fitted:
    """Says the share of right answers whatever is asked, drawn towards one half."""
    share = float(labels.sum() + 1) / (len(labels) + 2)
    width = rows.shape[1]
    blind = Linear(np.zeros(width), np.ones(width), np.zeros((width, 1)), np.zeros(1))
    offset = -float(np.log(share / (1 - share)))
    return Fitted(blind, Calibration(-1.0, offset), np.full(len(labels), share))


def fit_length(candidate: Candidate, rows: Floats, tokens: Floats) -> tuple[Scorer, Floats]:
    """A regression of log(1 + tokens), and its (N,) predictions across folds."""
    target = np.log1p(tokens)
    folds = KFold(FOLDS.n_splits, shuffle=True, random_state=0)
    across: Floats = cross_val_predict(candidate.regressor(), rows, target, cv=folds)
    return scorer_of(candidate.regressor().fit(rows, target)), across


def scorer_of(estimator: Any) -> Scorer:
    """The arrays of a fitted pipeline of scaler and linear model, or of boosted trees."""
    if isinstance(estimator, Pipeline):
        scaler, line = estimator[0], estimator[-1]
        weights = np.atleast_2d(line.coef_).T
        return Linear(scaler.mean_, scaler.scale_, weights, np.atleast_1d(line.intercept_))
    if isinstance(estimator, BlendClassifier):
        linear, forest = scorer_of(estimator.linear_), scorer_of(estimator.trees_)
        assert isinstance(linear, Linear)
        assert isinstance(forest, Forest)
        return Blend(linear, forest)
    return _forest(estimator)


def _forest(estimator: Any) -> Forest:
    trees = [stage[0].nodes for stage in estimator._predictors]
    starts = np.cumsum([0, *(len(tree) for tree in trees)])[:-1]
    nodes = np.concatenate(trees)
    offset = np.repeat(starts, [len(tree) for tree in trees])
    itself = np.arange(len(nodes))
    leaf = nodes["is_leaf"].astype(np.bool_)
    left = np.where(leaf, itself, nodes["left"] + offset)
    right = np.where(leaf, itself, nodes["right"] + offset)
    return Forest(
        np.where(leaf, 0, nodes["feature_idx"]).astype(np.int32),
        np.where(leaf, np.inf, nodes["num_threshold"]),
        np.where(leaf, nodes["value"], 0.0),
        np.stack([left, right], axis=1).reshape(-1).astype(np.int32),
        starts.astype(np.int32),
        np.zeros(1, dtype=np.int32),
        np.asarray(estimator._baseline_prediction, dtype=np.float64).reshape(1),
        int(nodes["depth"].max()),
    )


def merged(scorers: Sequence[Scorer]) -> Scorer:
    """One scorer whose outputs are those of several, in order."""
    forests = [scorer for scorer in scorers if isinstance(scorer, Forest)]
    lines = [scorer for scorer in scorers if isinstance(scorer, Linear)]
    if len(forests) == len(scorers):
        return _merged_forests(forests)
    if len(lines) == len(scorers):
        return _merged_lines(lines)
    blends = [_as_blend(scorer, len(_any_line(scorers).mean)) for scorer in scorers]
    return Blend(
        _merged_lines([blend.linear for blend in blends]),
        _merged_forests([blend.forest for blend in blends]),
    )


def _any_line(scorers: Sequence[Scorer]) -> Linear:
    lines = [scorer.linear if isinstance(scorer, Blend) else scorer for scorer in scorers]
    return next(line for line in lines if isinstance(line, Linear))


def _as_blend(scorer: Scorer, width: int) -> Blend:
    """Any scorer as one of both kinds, the kind it lacks saying the same or nothing."""
    nothing = Linear(np.zeros(width), np.ones(width), np.zeros((width, 1)), np.zeros(1))
    if isinstance(scorer, Forest):
        return Blend(nothing, replace(scorer, value=2 * scorer.value, base=2 * scorer.base))
    if isinstance(scorer, Linear):
        return Blend(replace(scorer, weights=2 * scorer.weights, bias=2 * scorer.bias), _leaf())
    return scorer


def _merged_forests(forests: Sequence[Forest]) -> Forest:
    node_starts = np.cumsum([0, *(len(forest.feature) for forest in forests)])
    tree_starts = np.cumsum([0, *(len(forest.root) for forest in forests)])
    pairs = list(zip(forests, node_starts, strict=False))
    return Forest(
        np.concatenate([forest.feature for forest in forests]),
        np.concatenate([forest.threshold for forest in forests]),
        np.concatenate([forest.value for forest in forests]),
        np.concatenate([forest.child + start for forest, start in pairs]).astype(np.int32),
        np.concatenate([forest.root + start for forest, start in pairs]).astype(np.int32),
        tree_starts[:-1].astype(np.int32),
        np.concatenate([forest.base for forest in forests]),
        max(forest.depth for forest in forests),
    )


def _merged_lines(lines: Sequence[Linear]) -> Linear:
    """Brought to the first one's scale of features, so that one matrix serves all."""
    mean, scale = lines[0].mean, lines[0].scale
    weights = [line.weights * (scale / line.scale)[:, None] for line in lines]
    shifts = [line.bias + ((mean - line.mean) / line.scale) @ line.weights for line in lines]
    return Linear(mean, scale, np.concatenate(weights, axis=1), np.concatenate(shifts))


def _leaf() -> Forest:
    """A forest that says nothing: one tree of one leaf."""
    zero = np.zeros(1, dtype=np.int32)
    child = np.zeros(2, dtype=np.int32)
    return Forest(zero, np.full(1, np.inf), np.zeros(1), child, zero, zero, np.zeros(1), 0)
