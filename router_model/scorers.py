"""Trained estimators as flat arrays: tree ensembles, linear models and calibration curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Forest:
    """Boosted trees of several outputs, walked level by level, all trees at once.

    ``feature``, ``threshold``, ``value``: (nodes,); ``child``: (2 * nodes,), where node i goes to
    child[2i] if its feature is <= threshold, else to child[2i + 1]; a leaf is its own child.
    ``root``: (trees,), grouped by output; ``first``: (outputs,), index of each output's first tree;
    ``base``: (outputs,).
    """

    feature: Ints
    threshold: Floats
    value: Floats
    child: Ints
    root: Ints
    first: Ints
    base: Floats
    depth: int

    def score(self, rows: Floats) -> Floats:
        """Raw scores (B, outputs) of feature rows (B, F)."""
        flat = rows.ravel()
        first = rows.shape[1] * np.arange(len(rows))[:, None]
        node = np.broadcast_to(self.root, (len(rows), len(self.root)))
        for _ in range(self.depth):
            right = flat.take(first + self.feature.take(node)) > self.threshold.take(node)
            node = self.child.take(2 * node + right)
        totals: Floats = np.add.reduceat(self.value.take(node), self.first, axis=1)
        return totals + self.base

    def arrays(self) -> Arrays:
        """Everything as arrays for saving."""
        return {
            "feature": self.feature,
            "threshold": self.threshold,
            "value": self.value,
            "child": self.child,
            "root": self.root,
            "first": self.first,
            "base": self.base,
            "depth": np.array(self.depth, dtype=np.int32),
        }


@dataclass(frozen=True, slots=True)
class Linear:
    """Raw score = ((row - mean) / scale) @ weights + bias; ``weights``: (F, outputs)."""

    mean: Floats
    scale: Floats
    weights: Floats
    bias: Floats

    def score(self, rows: Floats) -> Floats:
        """Raw scores (B, outputs) of feature rows (B, F)."""
        result: Floats = ((rows - self.mean) / self.scale) @ self.weights + self.bias
        return result

    def arrays(self) -> Arrays:
        """Everything as arrays for saving."""
        return {
            "mean": self.mean,
            "scale": self.scale,
            "weights": self.weights,
            "bias": self.bias,
        }


@dataclass(frozen=True, slots=True)
class Blend:
    """The mean of a linear model's and a forest's raw scores, output by output."""

    linear: Linear
    forest: Forest

    def score(self, rows: Floats) -> Floats:
        """Raw scores (B, outputs) of feature rows (B, F)."""
        result: Floats = (self.linear.score(rows) + self.forest.score(rows)) / 2
        return result

    def arrays(self) -> Arrays:
        """Everything as arrays for saving."""
        return self.linear.arrays() | self.forest.arrays()


Scorer = Forest | Linear | Blend


def scorer_from(arrays: Mapping[str, NDArray[np.generic]]) -> Scorer:
    """The scorer that ``arrays()`` described. KeyError when a part is missing."""
    linear = _linear_from(arrays) if "weights" in arrays else None
    if linear is None:
        return _forest_from(arrays)
    return Blend(linear, _forest_from(arrays)) if "root" in arrays else linear


def _linear_from(arrays: Mapping[str, NDArray[np.generic]]) -> Linear:
    parts = [np.asarray(arrays[n], np.float64) for n in ("mean", "scale", "weights", "bias")]
    return Linear(*parts)


def _forest_from(arrays: Mapping[str, NDArray[np.generic]]) -> Forest:
    feature, child, root, first = (
        np.asarray(arrays[name], np.int32) for name in ("feature", "child", "root", "first")
    )
    threshold, value, base = (
        np.asarray(arrays[name], np.float64) for name in ("threshold", "value", "base")
    )
    depth = int(np.asarray(arrays["depth"], np.int32))
    return Forest(feature, threshold, value, child, root, first, base, depth)


@dataclass(frozen=True, slots=True)
class Calibration:
    """From a raw score to a probability: a sigmoid where ``knots`` is empty, else interpolation.

    ``slope``, ``offset``: p = 1 / (1 + exp(slope * score + offset)), scikit-learn's signs.
    ``knots``, ``heights``: (K,), an isotonic curve, constant outside its knots.
    """

    slope: float = -1.0
    offset: float = 0.0
    knots: tuple[float, ...] = ()
    heights: tuple[float, ...] = ()

    def probability(self, scores: Floats) -> Floats:
        """Probabilities of the same shape as ``scores``."""
        if self.knots:
            return np.asarray(np.interp(scores, self.knots, self.heights), dtype=np.float64)
        linear = np.clip(self.slope * scores + self.offset, -500.0, 500.0)
        result: Floats = 1.0 / (1.0 + np.exp(linear))
        return result

    def arrays(self) -> Arrays:
        """Everything as arrays for saving."""
        return {
            "sigmoid": np.array([self.slope, self.offset]),
            "knots": np.array(self.knots, dtype=np.float64),
            "heights": np.array(self.heights, dtype=np.float64),
        }


def calibration_from(arrays: Mapping[str, NDArray[np.generic]]) -> Calibration:
    """The calibration that ``arrays()`` described. KeyError when a part is missing."""
    slope, offset = np.asarray(arrays["sigmoid"], dtype=np.float64).tolist()
    knots, heights = (
        np.asarray(arrays[name], np.float64).tolist() for name in ("knots", "heights")
    )
    return Calibration(slope, offset, tuple(knots), tuple(heights))
