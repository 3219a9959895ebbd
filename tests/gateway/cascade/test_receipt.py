"""Receipts add up, also over what other people's servers say."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cascade.receipt import Attempt, Ledger, count, engine_part, sources
from gateway.generation import Usage


@pytest.mark.parametrize("value", [None, -1, "3", 2.0, True, [], {}])
def test_what_is_no_count_counts_nothing(value: Any) -> None:
    assert count(value) == 0
    assert count(3) == 3


@pytest.mark.parametrize(
    ("receipt", "steps"),
    [(None, None), ({}, None), ({"steps": 3}, 3), ({"receipt": {"steps": 3}}, 3),
     ({"receipt": None}, None), ({"receipt": [1]}, None)],
)  # fmt: skip
def test_the_engines_account_is_found_wherever_it_is(receipt: Any, steps: int | None) -> None:
    assert engine_part(receipt).get("steps") == steps


@pytest.mark.parametrize("told", [None, [], "x", {"a": None}, {"a": 3}])
def test_sources_that_make_no_sense_are_left_out(told: Any) -> None:
    assert sources({"by_source": told}) == {}


def test_an_answer_handed_up_both_ways_is_not_counted_twice() -> None:
    attempt = Attempt(
        tier="t",
        outcome="answered",
        usage=Usage(accepted_prediction_tokens=5),
        engine={"by_source": {"rejected_answer": {"proposed": 9, "accepted": 7}}},
    )
    salvaged = {(): 0, ("prediction",): 5, ("drafts",): 7, ("prediction", "drafts"): 7}
    for handed_up, tokens in salvaged.items():
        attempt.handed_up = handed_up
        assert attempt.salvaged() == tokens


def test_rejected_tokens_are_those_written_and_not_shown() -> None:
    ledger = Ledger(policy_version=3)
    for outcome in ("rejected", "returned", "broken", "answered"):
        usage = Usage(completion_tokens=10)
        ledger.attempts.append(Attempt(tier=outcome, outcome=outcome, usage=usage))  # type: ignore[arg-type]
    ledger.attempts.append(Attempt(tier="down"))
    told = ledger.document("answered", 1.0)
    assert told["rejected_tokens"] == 10
    assert told["tiers"][-1] == {"tier": "down", "outcome": "unusable"}


def test_the_seed_and_narrow_margins_of_the_engine_are_told() -> None:
    engine = {"seed": 2**63, "narrow_margins": 1}
    told = Attempt(tier="t", outcome="answered", engine=engine).document()
    assert (told["seed"], told["narrow_margins"]) == (2**63, 1)
    assert Attempt(tier="t", outcome="answered").document()["seed"] is None
