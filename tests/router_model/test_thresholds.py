"""Solved thresholds reach their goal, here and on prompts they were not fitted to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from router_model.classifier import Router
from router_model.errors import NoSuchPolicy, SplitMismatch
from router_model.judge import Judge
from router_model.simulate import ScoredTable, Thresholds, scored
from router_model.table import OutcomeTable
from router_model.thresholds import SHARE_PER_COST, Effect, Goal, effect, fit_thresholds

TIERS = ("brook", "creek", "river")
MakeTable = Callable[..., OutcomeTable]


@pytest.fixture(scope="module")
def fitting(made_table: MakeTable, saved: Path) -> ScoredTable:
    return scored(made_table("thresholds", 600), Router.load(saved), Judge.load(saved))


@pytest.fixture(scope="module")
def test(made_table: MakeTable, saved: Path) -> ScoredTable:
    return scored(made_table("test", 600), Router.load(saved), Judge.load(saved))


def test_the_goal_is_reached_and_nearly_so_on_other_prompts(
    fitting: ScoredTable, test: ScoredTable
) -> None:
    thresholds = fit_thresholds(fitting, Goal(0.97))
    assert effect(fitting, thresholds).quality >= 0.97
    assert effect(test, thresholds).quality >= 0.95
    assert effect(test, thresholds).share > 0.3


def test_a_higher_goal_lets_less_be_answered_below(fitting: ScoredTable) -> None:
    shares = [effect(fitting, fit_thresholds(fitting, Goal(q))).share for q in (0.9, 0.97, 1.0)]
    assert shares[0] > shares[1] > shares[2]


def test_asking_for_low_cost_is_cheaper_than_asking_for_share(fitting: ScoredTable) -> None:
    cheap = effect(fitting, fit_thresholds(fitting, Goal(0.97, "cost")))
    shared = effect(fitting, fit_thresholds(fitting, Goal(0.97, "share")))
    assert cheap.quality >= 0.97
    assert cheap.cost <= shared.cost


def worth(seen: Effect) -> float:
    return seen.share - SHARE_PER_COST * seen.cost


def test_no_coarse_grid_finds_better(fitting: ScoredTable) -> None:
    found = effect(fitting, fit_thresholds(fitting, Goal(0.97)))
    grid = np.linspace(0, 1, 6).tolist()
    for start0, start1, accept0, accept1 in product(grid, repeat=4):
        other = Thresholds(TIERS, (start0, start1, 0.0), (accept0, accept1, 0.0))
        seen = effect(fitting, other)
        assert seen.quality < 0.97 or worth(seen) <= worth(found) + 0.02


def test_any_split_but_its_own_is_refused(test: ScoredTable) -> None:
    with pytest.raises(SplitMismatch, match="'test', expected 'thresholds'"):
        fit_thresholds(test)


def test_a_goal_beyond_reach_is_refused(fitting: ScoredTable) -> None:
    with pytest.raises(NoSuchPolicy, match=r"150\.0%.*'river'"):
        fit_thresholds(fitting, Goal(1.5))


def test_two_tiers_are_enough(fitting: ScoredTable) -> None:
    pair = replace(
        fitting,
        tiers=TIERS[1:],
        chances=fitting.chances[:, 1:],
        scores=fitting.scores[:, 1:],
        confidence=fitting.confidence[:, 1:],
        correct=fitting.correct[:, 1:],
        costs=fitting.costs[:, 1:],
    )
    thresholds = fit_thresholds(pair, Goal(0.97))
    assert len(thresholds.start) == 2
    assert effect(pair, thresholds).quality >= 0.97
