"""Interleaved pairs: every side meets every unit in turn, and ratios come with their interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percentiles: 95 %
Unit = TypeVar("Unit")


class Run(NamedTuple):
    """One side on one unit."""

    seconds: float
    tokens: int = 1  # that it took the seconds for


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Rounds(NamedTuple):
    """How often to repeat: at least ``least`` times, then until the budget is spent."""

    least: int
    most: int
    budget_s: float


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds a token of every side [rounds, units], and what every unit weighs in a total."""

    costs: Mapping[str, NDArray[np.float64]]
    weights: NDArray[np.float64]  # tokens of each unit, the same for every side

    @property
    def rounds(self) -> int:
        """Repeats of every pair."""
        return len(next(iter(self.costs.values())))

    def only(self, units: Sequence[int], *, scale: float = 1.0) -> Pairs:
        """Some of the units, their weights times ``scale``."""
        chosen = list(units)
        costs = {side: cost[:, chosen] for side, cost in self.costs.items()}
        return Pairs(costs, self.weights[chosen] * scale)

    def total(self, side: str) -> float:
        """Seconds for all units, each at the median of its repeats."""
        return float(np.median(self.costs[side], axis=0) @ self.weights)

    def resampled(self, side: str, picks: NDArray[np.int64]) -> NDArray[np.float64]:
        """``total`` for each row of ``picks`` [B, rounds], indices of rounds."""
        return np.asarray(np.median(self.costs[side][picks], axis=1) @ self.weights)


def interleave(
    sides: Mapping[str, Callable[[Unit], Run]], units: Sequence[Unit], rounds: Rounds
) -> Pairs:
    """Let every side do every unit, one right after the other, who begins taking turns."""
    found: dict[str, list[list[Run]]] = {name: [] for name in sides}
    names = list(sides)
    began = time.monotonic()
    for turn in range(rounds.most):
        if turn >= rounds.least and time.monotonic() - began > rounds.budget_s:
            break
        for runs in found.values():
            runs.append([])
        for place, unit in enumerate(units):
            first = (turn + place) % len(names)
            for name in [*names[first:], *names[:first]]:
                found[name][-1].append(sides[name](unit))
    return as_pairs(found)


def as_pairs(found: Mapping[str, Sequence[Sequence[Run]]]) -> Pairs:
    """Runs by side, round and unit; a unit weighs as many tokens as the first side gave it."""
    costs = {
        name: np.array([[run.seconds / run.tokens for run in row] for row in rows])
        for name, rows in found.items()
    }
    first = next(iter(found.values()))
    tokens = np.array([[run.tokens for run in row] for row in first], dtype=np.float64)
    return Pairs(costs, np.median(tokens, axis=0))


def speed_up(groups: Sequence[Pairs], *, base: str, ours: str, seed: int = 0) -> Estimate:
    """How many times as fast ``ours`` is, over all groups; the interval is of the timing alone.

    Rounds are drawn anew, both sides of a pair together.
    """
    generator = np.random.default_rng(seed)
    slow, fast = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for group in groups:
        picks = generator.integers(group.rounds, size=(RESAMPLES, group.rounds))
        slow += group.resampled(base, picks)
        fast += group.resampled(ours, picks)
    value = sum(g.total(base) for g in groups) / sum(g.total(ours) for g in groups)
    low, high = np.percentile(slow / fast, INTERVAL)
    return Estimate(value, float(low), float(high))


def inverse(ratio: Estimate) -> Estimate:
    """The ratio the other way round."""
    return Estimate(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)


def tokens_per_second(groups: Sequence[Pairs], side: str) -> float:
    """Of one side, over all groups."""
    tokens = sum(float(group.weights.sum()) for group in groups)
    return tokens / sum(group.total(side) for group in groups)


def fastest(groups: Sequence[Pairs], sides: Sequence[str]) -> str:
    """The best of several baselines."""
    return min(sides, key=lambda side: sum(group.total(side) for group in groups))


def middle(values: ArrayLike, *, seed: int = 0) -> Estimate:
    """The median of repeats."""
    repeats = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(len(repeats), size=(RESAMPLES, len(repeats)))
    low, high = np.percentile(np.median(repeats[picks], axis=1), INTERVAL)
    return Estimate(float(np.median(repeats)), float(low), float(high))


def ratio_of_sums(above: ArrayLike, below: ArrayLike, *, seed: int = 0) -> NDArray[np.float64]:
    """Sum of ``above`` over sum of ``below`` for resampled units; the first is of all of them."""
    over, under = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(len(over), size=(RESAMPLES, len(over)))
    resampled = over[picks].sum(axis=1) / under[picks].sum(axis=1)
    return np.concatenate([[over.sum() / under.sum()], resampled])


def estimate(drawn: NDArray[np.float64]) -> Estimate:
    """Of an array whose first value is the figure and whose others are resampled ones."""
    low, high = np.percentile(drawn[1:], INTERVAL)
    return Estimate(float(drawn[0]), float(low), float(high))
