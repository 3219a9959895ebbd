"""A replayed cascade does what its thresholds say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router_model.classifier import Router
from router_model.errors import ModelMismatch, SplitMismatch
from router_model.judge import Judge
from router_model.simulate import ScoredTable, Thresholds, replay, scored, thresholds_from
from router_model.table import OutcomeTable

TIERS = ("brook", "creek", "river")
MakeTable = Callable[..., OutcomeTable]


def small_table(chances: Any, scores: Any) -> ScoredTable:
    """Two prompts or more; only the last tier is right; costs 1, 2, 4."""
    shape = np.array(chances).shape
    correct = np.zeros(shape, dtype=np.bool_)
    correct[:, -1] = True
    return ScoredTable(
        "thresholds",
        TIERS,
        np.array(chances),
        np.array(scores),
        np.full(shape, 0.5),
        correct,
        np.tile([1.0, 2.0, 4.0], (shape[0], 1)),
        np.array(["a"] * shape[0]),
    )


TABLE = small_table(
    chances=[[0.9, 0.9, 0.9], [0.2, 0.8, 0.9], [0.1, 0.1, 0.1]],
    scores=[[0.3, 0.8, 0.9], [0.9, 0.2, 0.9], [0.9, 0.9, 0.9]],
)


def test_a_request_starts_where_it_may_and_climbs_until_accepted() -> None:
    done = replay(TABLE, Thresholds(TIERS, (0.5, 0.5, 0.0), (0.5, 0.5, 0.0)))
    assert done.tier.tolist() == [1, 2, 2]
    assert done.cost.tolist() == [1 + 2, 2 + 4, 4]
    assert done.correct.tolist() == [False, True, True]


def test_accepting_everything_answers_at_the_start() -> None:
    done = replay(TABLE, Thresholds(TIERS, (0.5, 0.5, 0.0), (0.0, 0.0, 0.0)))
    assert done.tier.tolist() == [0, 1, 2]


def test_a_threshold_that_is_met_exactly_is_met() -> None:
    done = replay(TABLE, Thresholds(TIERS, (0.9, 0.8, 0.0), (0.3, 0.2, 0.0)))
    assert done.tier.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("start", "accept"),
    [
        ((0.5, 0.5), (0.5, 0.5, 0.0)),
        ((0.5, 1.5, 0.0), (0.5, 0.5, 0.0)),
        ((0.5, float("nan"), 0.0), (0.5, 0.5, 0.0)),
        ((0.5, 0.5, 0.1), (0.5, 0.5, 0.0)),
        ((0.5, 0.5, 0.0), (0.5, 0.5, 0.9)),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(start: Any, accept: Any) -> None:
    with pytest.raises(ValueError, match="got Thresholds"):
        Thresholds(TIERS, start, accept)


def test_thresholds_survive_being_a_document() -> None:
    thresholds = Thresholds(TIERS, (0.1, 0.2, 0.0), (0.3, 0.4, 0.0))
    assert thresholds_from(thresholds.document(), TIERS) == thresholds
    with pytest.raises(ModelMismatch, match="expected"):
        thresholds_from(thresholds.document(), ("brook", "river"))


def test_prompts_the_router_was_trained_on_cannot_be_scored(
    saved: Path, training_table: OutcomeTable
) -> None:
    with pytest.raises(SplitMismatch, match="trained on"):
        scored(training_table, Router.load(saved), Judge.load(saved))


def test_costs_are_relative_to_the_last_tier(made_table: MakeTable, saved: Path) -> None:
    table = scored(made_table("test", 40), Router.load(saved), Judge.load(saved))
    assert table.costs[:, -1].mean() == pytest.approx(1.0)
    assert table.costs[:, 0].mean() < table.costs[:, 1].mean() < 1.0


def test_priced_tokens_are_costs_and_every_tier_needs_a_price(
    made_table: MakeTable, saved: Path
) -> None:
    router, judge = Router.load(saved), Judge.load(saved)
    prices = {"brook": 1.0, "creek": 2.0, "river": 10.0}
    table = scored(made_table("test", 40), router, judge, prices)
    np.testing.assert_allclose(table.costs[:, 0], table.costs[:, 2] / 10)
    with pytest.raises(ModelMismatch, match="'river' too"):
        scored(made_table("test", 5), router, judge, {"brook": 1.0, "creek": 2.0})
