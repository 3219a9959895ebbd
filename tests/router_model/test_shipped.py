"""The router that ships with the demo ladder loads, fits its ladder, and holds what it promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from router_model.classifier import Router
from router_model.evidence import AnswerEvidence
from router_model.judge import Judge
from router_model.simulate import thresholds_from

FOLDER = Path(__file__).parents[2] / "demo" / "router"
TIERS = ("brook", "creek", "river")

pytestmark = pytest.mark.skipif(
    not (FOLDER / "router.json").exists(), reason="no router has been trained for the demo yet"
)


@pytest.fixture(scope="module")
def report() -> Any:
    return json.loads((FOLDER / "evaluation.json").read_text())


def test_it_knows_the_whole_ladder() -> None:
    router = Router.load(FOLDER)
    router.check(TIERS)
    assert Judge.load(FOLDER).tiers == TIERS
    assert set(router.metadata["fingerprints"]) == set(TIERS)


def test_an_easy_request_is_easier_than_a_hard_one_for_every_tier() -> None:
    router = Router.load(FOLDER)
    easy = router.predict("Write in capital letters: fox lamp")
    hard = router.predict(
        "Sort from smallest to largest: " + ", ".join(str(7919 * n % 997) for n in range(1, 15))
    )
    assert all(easy[tier] > hard[tier] for tier in TIERS)


def test_a_doubtful_answer_is_judged_worse_than_a_sure_one() -> None:
    reading = Router.load(FOLDER).read("Write in capital letters: fox lamp")
    sure = AnswerEvidence(
        tier="brook",
        reading=reading,
        answer="FOX LAMP",
        logprobs=(-0.001,) * 5,
        margins=(8.0,) * 5,
        finish_reason="stop",
    )
    doubtful = AnswerEvidence(
        tier="brook",
        reading=reading,
        answer="FOX LAMP",
        logprobs=(-0.001, -1.5, -0.9, -0.001, -0.001),
        margins=(8.0, 0.1, 0.2, 8.0, 8.0),
        finish_reason="stop",
    )
    judge = Judge.load(FOLDER)
    assert judge.score(sure) > 0.8
    assert judge.score(doubtful) < judge.score(sure) - 0.2


def test_its_policy_is_the_one_that_was_evaluated(report: Any) -> None:
    policy = json.loads((FOLDER / "policy.json").read_text())
    assert policy["tiers"] == report["policy"]
    thresholds_from(policy["tiers"], TIERS)


def test_its_evaluation_holds_what_the_demo_promises(report: Any) -> None:
    shipped = report["cascades"]["shipped policy"]
    assert shipped["relative_quality"][0] >= 0.97
    assert shipped["not_by_last"][0] >= 0.5
    assert shipped["relative_quality"][1] > report["cascades"]["random mix"]["relative_quality"][2]


def test_it_was_measured_on_prompts_it_was_not_trained_on(report: Any) -> None:
    assert report["prompts"] >= 1000
    assert len(Router.load(FOLDER).trained_on) >= 1000
