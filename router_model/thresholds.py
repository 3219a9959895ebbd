"""Solves for the thresholds of a cascade on the split that is there for it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, product
from typing import Literal, NamedTuple

import numpy as np

from router_model.errors import NoSuchPolicy, SplitMismatch
from router_model.features import Floats
from router_model.simulate import ScoredTable, Thresholds, replay

Objective = Literal["share", "cost"]

LEVELS = 24
_PRICES = np.geomspace(0.5, 40.0, 10)
_ROUNDS = 4
SHARE_PER_COST = 0.5
"""Share of prompts below the last tier that is worth as much as all that the last tier costs."""


class Goal(NamedTuple):
    """What to ask of a cascade.

    ``quality``: least accuracy as a share of the last tier's own. ``objective``: what to make the
    most of beyond that: the ``share`` of prompts answered below the last tier, with an eye on cost
    (SHARE_PER_COST), or the least cost alone.
    """

    quality: float = 0.985
    objective: Objective = "share"


DEFAULT_GOAL = Goal()


class Effect(NamedTuple):
    """What thresholds do on a table: accuracy relative to the last tier, share below it, cost."""

    quality: float
    share: float
    cost: float


def effect(table: ScoredTable, thresholds: Thresholds) -> Effect:
    """Replay thresholds and sum up."""
    done = replay(table, thresholds)
    last = len(table.tiers) - 1
    quality = float(done.correct.mean()) / max(float(table.correct[:, last].mean()), 1e-9)
    return Effect(quality, float((done.tier < last).mean()), float(done.cost.mean()))


def fit_thresholds(table: ScoredTable, goal: Goal = DEFAULT_GOAL) -> Thresholds:
    """The best thresholds found for a goal on outcomes of the split ``thresholds``.

    Climbs coordinate by coordinate for several prices of a lost answer, from the careful and from
    the careless end, keeps the best of all it saw that reach the goal, and moves its thresholds
    two at a time.

    Raises:
        SplitMismatch: the table is of another split.
        NoSuchPolicy: the goal is more than the last tier alone reaches, and nothing reaches it.
    """
    if table.split != "thresholds":
        raise SplitMismatch(f"got scores of split {table.split!r}, expected 'thresholds'")
    search = _Search(table, goal)
    below = len(table.tiers) - 1
    for price in _PRICES:
        for level in (0.0, 0.7, 1.0):
            search.climb(np.full(2 * below, level), float(price))
    search.polish()
    return search.thresholds(search.best)


class _Search:
    """Thresholds as one vector: starts, then accepts, the last tier's left out."""

    def __init__(self, table: ScoredTable, goal: Goal) -> None:
        self._table, self._goal = table, goal
        below = len(table.tiers) - 1
        columns = [*table.chances.T[:below], *table.scores.T[:below]]
        self._levels = [_levels(column) for column in columns]
        self.best = np.ones(2 * below)
        self._best_gain = -np.inf
        self._worth(self.best, 0.0)

    def climb(self, at: Floats, price: float) -> None:
        """Improve one threshold after the other until none of them moves."""
        worth = self._worth(at, price)
        for _ in range(_ROUNDS):
            before = worth
            for place, levels in enumerate(self._levels):
                for level in levels:
                    moved = _moved(at, {place: level})
                    if (moved_worth := self._worth(moved, price)) > worth:
                        at, worth = moved, moved_worth
            if worth <= before:
                return

    def polish(self) -> None:
        """Move the best one's thresholds in pairs, near where they are, while that helps."""
        if self._best_gain == -np.inf:
            goal, top = self._goal.quality, self._table.tiers[-1]
            raise NoSuchPolicy(f"got no thresholds that reach {goal:.1%} of tier {top!r}")
        for _ in range(_ROUNDS):
            before = self._best_gain
            for one, other in combinations(range(len(self._levels)), 2):
                at = self.best
                for level, with_level in product(self._near(one), self._near(other)):
                    self._worth(_moved(at, {one: level, other: with_level}), 0.0)
            if self._best_gain <= before:
                return

    def _near(self, place: int) -> list[float]:
        """Every other level, and all levels next to the best one's."""
        levels = self._levels[place]
        here = int(np.searchsorted(levels, self.best[place]))
        return sorted({*levels[::2], *levels[max(0, here - 3) : here + 4]})

    def _worth(self, at: Floats, price: float) -> float:
        """Gain plus price times quality; remembers the best that reaches the goal."""
        seen = effect(self._table, self.thresholds(at))
        gain = (
            seen.share - SHARE_PER_COST * seen.cost
            if self._goal.objective == "share"
            else -seen.cost
        )
        if seen.quality >= self._goal.quality and gain > self._best_gain:
            self.best, self._best_gain = at, gain
        return gain + price * seen.quality

    def thresholds(self, at: Floats) -> Thresholds:
        """The vector as thresholds."""
        below = len(self._table.tiers) - 1
        start, accept = at[:below].tolist(), at[below:].tolist()
        return Thresholds(self._table.tiers, (*start, 0.0), (*accept, 0.0))


def _moved(at: Floats, levels: Mapping[int, float]) -> Floats:
    moved = at.copy()
    for place, level in levels.items():
        moved[place] = level
    return moved


def _levels(column: Floats) -> list[float]:
    """Quantiles of a column of probabilities, and both ends; rounded to what one would type."""
    inner = np.quantile(column, np.linspace(0.02, 0.98, LEVELS))
    return [0.0, *sorted({round(float(level), 3) for level in inner}), 1.0]
