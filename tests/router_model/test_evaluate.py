"""An evaluation compares with honest baselines, on the split test alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router_model.classifier import Router
from router_model.errors import SplitMismatch
from router_model.evaluate import always, evaluate, evaluate_outcomes
from router_model.judge import Judge
from router_model.outcomes import Outcome
from router_model.report import as_markdown
from router_model.simulate import replay, scored
from router_model.table import OutcomeTable
from router_model.thresholds import Goal, fit_thresholds

MakeTable = Callable[..., OutcomeTable]
MakeOutcomes = Callable[..., list[Outcome]]


@pytest.fixture(scope="module")
def report(made_table: MakeTable, made_outcomes: MakeOutcomes, saved: Path) -> dict[str, Any]:
    router, judge = Router.load(saved), Judge.load(saved)
    fitting = scored(made_table("thresholds", 300), router, judge)
    policy = fit_thresholds(fitting, Goal(0.97)).document()
    outcomes = [*made_outcomes("test", 300), *made_outcomes("thresholds", 300)]
    return evaluate_outcomes(outcomes, router, judge, policy, dial=(0.95, 1.0))


def quality(report: dict[str, Any], name: str) -> float:
    return float(report["cascades"][name]["relative_quality"][0])


def test_always_the_last_tier_is_the_measure(report: dict[str, Any]) -> None:
    assert quality(report, "always river") == 1.0
    assert report["cascades"]["always river"]["not_by_last"][0] == 0.0
    assert report["cascades"]["always brook"]["not_by_last"][0] == 1.0


def test_the_shipped_policy_beats_a_random_mix_of_the_same_shares(report: dict[str, Any]) -> None:
    shipped, mixed = (report["cascades"][name] for name in ("shipped policy", "random mix"))
    assert shipped["not_by_last"][0] == pytest.approx(mixed["not_by_last"][0])
    assert shipped["relative_quality"][1] > mixed["relative_quality"][2]


def test_the_router_beats_chance_in_choosing(report: dict[str, Any]) -> None:
    pair = report["router"]["creek or river"]
    assert pair["random"]["apgr"][0] == pytest.approx(0.5)
    assert pair["router"]["apgr"][1] > 0.6
    assert pair["router"]["cpt80"][0] < 0.8


def test_the_judge_knows_more_after_than_before(report: dict[str, Any]) -> None:
    before = report["before_generation"]["creek"]["auroc"][0]
    assert report["after_generation"]["creek"]["auroc"][0] > before > 0.8


def test_a_higher_goal_on_the_dial_gives_more_quality_and_less_share(
    report: dict[str, Any],
) -> None:
    first, last = report["dial"][0], report["dial"][-1]
    assert first["goal"] < last["goal"]
    assert first["relative_quality"][0] < last["relative_quality"][0]
    assert first["not_by_last"][0] > last["not_by_last"][0]


def test_it_is_plain_json_and_a_page(report: dict[str, Any]) -> None:
    page = as_markdown(json.loads(json.dumps(report, allow_nan=False)))
    for name in (*report["cascades"], "CPT80", "AUROC within family", "quality asked for"):
        assert name in page


def test_scores_of_another_split_are_refused(made_table: MakeTable, saved: Path) -> None:
    table = scored(made_table("thresholds", 30), Router.load(saved), Judge.load(saved))
    with pytest.raises(SplitMismatch, match="'thresholds', expected 'test'"):
        evaluate(table, always(table.tiers, 0))


def test_always_means_always(made_table: MakeTable, saved: Path) -> None:
    table = scored(made_table("test", 30), Router.load(saved), Judge.load(saved))
    for place in range(3):
        assert np.all(replay(table, always(table.tiers, place)).tier == place)
