"""Figures of merit of probabilities and of routers, with bootstrap intervals.

Definitions: PGR, APGR and CPT as in RouteLLM, with a full sweep of thresholds instead of quantile
bins; CPT is read off an isotonic fit of the curve; ECE uses bins of equal mass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]

ECE_BINS = 15
RESAMPLES = 300


class Interval(NamedTuple):
    """An estimate with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def bootstrap(statistic: Callable[[Rows], float], n: int, resamples: int = RESAMPLES) -> Interval:
    """``statistic`` of all rows, with the 2.5 % and 97.5 % quantiles over resampled rows."""
    rng = np.random.default_rng(0)
    drawn = [statistic(rng.integers(0, n, n)) for _ in range(resamples)]
    kept = [value for value in drawn if np.isfinite(value)] or [float("nan")]
    low, high = np.quantile(kept, (0.025, 0.975))
    return Interval(statistic(np.arange(n)), float(low), float(high))


def log_loss(probabilities: Floats, labels: Bools) -> float:
    """Mean negative log-likelihood, in nats."""
    chances = np.clip(np.where(labels, probabilities, 1.0 - probabilities), 1e-6, 1.0)
    return float(-np.log(chances).mean())


def brier(probabilities: Floats, labels: Bools) -> float:
    """Mean squared error of probabilities."""
    return float(np.square(probabilities - labels).mean())


def calibration_error(probabilities: Floats, labels: Bools, bins: int = ECE_BINS) -> float:
    """Expected calibration error over bins of equal mass."""
    order = np.argsort(probabilities, kind="stable")
    gaps = [
        len(rows) * abs(float(probabilities[rows].mean()) - float(labels[rows].mean()))
        for rows in np.array_split(order, bins)
        if len(rows)
    ]
    return sum(gaps) / max(1, len(order))


def auroc(scores: Floats, labels: Bools) -> float:
    """P(a right one scores above a wrong one), ties counted half; NaN with one kind only."""
    right, wrong = int(labels.sum()), int((~labels).sum())
    if not right or not wrong:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[labels].sum() - right * (right + 1) / 2) / (right * wrong))


def auroc_within(scores: Floats, labels: Bools, families: NDArray[np.str_]) -> dict[str, float]:
    """AUROC of each family that holds both right and wrong answers."""
    found = {str(name): families == name for name in np.unique(families)}
    each = {name: auroc(scores[rows], labels[rows]) for name, rows in found.items()}
    return {name: value for name, value in each.items() if np.isfinite(value)}


def gap_recovered(scores: Floats, weak: Bools, strong: Bools) -> Floats:
    """(N + 1,) PGR when the 0, 1, ... N requests of lowest score go to the strong model.

    Requests of equal score are mixed at random: the curve is linear across them. NaN when the
    strong model is no better.
    """
    gap = float(strong.mean() - weak.mean())
    if gap <= 0:
        return np.full(len(scores) + 1, np.nan)
    order = np.argsort(scores, kind="stable")
    gains = _mixed_ties(scores[order], (strong.astype(np.float64) - weak)[order])
    return np.concatenate([[0.0], np.cumsum(gains)]) / (gap * len(scores))


def _mixed_ties(ordered: Floats, gains: Floats) -> Floats:
    _, place, counts = np.unique(ordered, return_inverse=True, return_counts=True)
    means: Floats = np.bincount(place, weights=gains) / counts
    return means[place]


def apgr(curve: Floats) -> float:
    """Area under PGR against the share sent to the strong model; random routing has 0.5."""
    return float(((curve[1:] + curve[:-1]) / 2).mean())


def cpt(curve: Floats, recovered: float) -> float:
    """Smallest share sent to the strong model at which PGR reaches ``recovered``."""
    if not np.isfinite(curve).all():
        return float("nan")
    smooth = _isotonic(curve)
    reached = np.flatnonzero(smooth >= recovered - 1e-9)
    return float(reached[0]) / (len(curve) - 1) if len(reached) else 1.0


def _isotonic(values: Floats) -> Floats:
    """Least-squares non-decreasing fit, by pooling adjacent violators."""
    means: list[float] = []
    sizes: list[int] = []
    for value in values.tolist():
        means.append(value)
        sizes.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            mean, size = means.pop(), sizes.pop()
            total = sizes[-1] + size
            means[-1] = (means[-1] * sizes[-1] + mean * size) / total
            sizes[-1] = total
    return np.repeat(means, sizes)
