"""Outcomes as a table: which prompts count, and which splits must not meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from router_model.errors import OutcomeError, SplitMismatch
from router_model.outcomes import Outcome
from router_model.table import OutcomeTable, table_of

TIERS = ("brook", "creek", "river")
MakeTable = Callable[..., OutcomeTable]
MakeOutcomes = Callable[..., list[Outcome]]


def test_a_row_holds_every_tier_in_order(made_table: MakeTable) -> None:
    table = made_table("test", 20)
    assert len(table) == 20
    assert all(tuple(each.tier for each in row) == TIERS for row in table.outcomes)
    assert table.correct().shape == (20, 3)


def test_prompts_that_a_tier_has_not_answered_are_left_out(made_outcomes: MakeOutcomes) -> None:
    outcomes = made_outcomes("test", 10)
    assert len(table_of(outcomes[:-1], "test", TIERS)) == 9


def test_the_last_of_several_outcomes_counts(made_outcomes: MakeOutcomes) -> None:
    outcomes = made_outcomes("test", 3)
    again = replace(outcomes[0], answer="again", correct=not outcomes[0].correct)
    table = table_of([*outcomes, again], "test", TIERS)
    assert table.outcomes[0][0].answer == "again"


def test_a_prompt_in_two_splits_is_refused(made_outcomes: MakeOutcomes) -> None:
    outcomes = made_outcomes("test", 3)
    strayed = replace(outcomes[0], split="router-train")
    with pytest.raises(SplitMismatch, match="1 prompts"):
        table_of([*outcomes, strayed], "test", TIERS)


def test_no_whole_row_is_an_error_that_names_the_tiers(made_outcomes: MakeOutcomes) -> None:
    with pytest.raises(OutcomeError, match="'lake'"):
        table_of(made_outcomes("test", 3), "test", (*TIERS, "lake"))


def test_another_split_is_refused_where_one_is_required(made_table: MakeTable) -> None:
    with pytest.raises(SplitMismatch, match="'test', expected 'router-train'"):
        made_table("test", 3).require("router-train")


def test_prompts_seen_in_training_are_counted_and_refused(made_table: MakeTable) -> None:
    table = made_table("test", 5)
    table.require_unseen(np.array([1, 2, 3], dtype=np.uint64))
    with pytest.raises(SplitMismatch, match="2 of 5"):
        table.require_unseen(table.digests[:2])


def test_two_fingerprints_of_one_tier_are_refused(made_outcomes: MakeOutcomes) -> None:
    outcomes = made_outcomes("test", 2)
    table = table_of(outcomes, "test", TIERS)
    assert table.fingerprints() == {tier: f"fp-{tier}" for tier in TIERS}
    mixed = [replace(outcomes[0], fingerprint="other"), *outcomes[1:]]
    with pytest.raises(OutcomeError, match="brook"):
        table_of(mixed, "test", TIERS).fingerprints()


def test_unknown_lengths_are_estimated(made_outcomes: MakeOutcomes) -> None:
    outcomes = [replace(each, tokens=None, logprobs=None) for each in made_outcomes("test", 2)]
    assert (table_of(outcomes, "test", TIERS).tokens() >= 1).all()
