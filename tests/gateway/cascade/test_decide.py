"""Every decision follows from the policy and the probabilities alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.cascade.decide import (
    accepts,
    attempt_order,
    best_index,
    start_index,
    still_serves,
)
from gateway.cascade.policy import Policy, Rung

probability = st.floats(0, 1)
policies = st.lists(st.tuples(probability, probability), min_size=0, max_size=4).map(
    lambda pairs: Policy(1, (*(Rung(f"t{i}", *pair) for i, pair in enumerate(pairs)), Rung("last")))
)


@given(policies, st.data())
def test_the_start_is_the_first_tier_that_reaches_its_threshold(
    policy: Policy, data: st.DataObject
) -> None:
    chances = {tier: data.draw(probability) for tier in policy.ladder}
    start = start_index(policy, chances)
    for rung in policy.rungs[:start]:
        assert chances[rung.tier] < rung.start
    if start < len(policy.rungs) - 1:
        assert chances[policy.rungs[start].tier] >= policy.rungs[start].start


@given(policies, st.data())
def test_raising_a_start_threshold_never_starts_a_request_lower(
    policy: Policy, data: st.DataObject
) -> None:
    chances = {tier: data.draw(probability) for tier in policy.ladder}
    raised = Policy(
        2,
        tuple(
            Rung(one.tier, data.draw(st.floats(one.start, 1)), one.accept)
            if at < len(policy.rungs) - 1
            else one
            for at, one in enumerate(policy.rungs)
        ),
    )
    assert start_index(raised, chances) >= start_index(policy, chances)


def test_a_tier_the_router_does_not_know_is_not_started_at() -> None:
    policy = Policy(1, (Rung("a"), Rung("b"), Rung("z")))
    assert start_index(policy, {"b": 0.0}) == 1
    assert start_index(policy, {}) == 2


def test_without_a_router_the_start_is_the_fixed_one_or_the_last() -> None:
    policy = Policy(1, (Rung("a"), Rung("b"), Rung("z")))
    assert start_index(policy, None) == 2
    assert start_index(policy, None, fallback=1) == 1


@given(policies, st.data())
def test_an_answer_is_kept_from_the_threshold_on_and_the_last_tiers_always(
    policy: Policy, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(policy.rungs) - 1))
    score = data.draw(probability)
    last = index == len(policy.rungs) - 1
    assert accepts(policy, index, score) == (last or score >= policy.rungs[index].accept)


@given(policies, st.data())
def test_every_tier_is_tried_once_upwards_first(policy: Policy, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(policy.rungs) - 1))
    order = attempt_order(policy, start)
    assert sorted(order) == list(range(len(policy.rungs)))
    assert list(order[: len(policy.rungs) - start]) == list(range(start, len(policy.rungs)))
    assert list(order[len(policy.rungs) - start :]) == list(range(start))[::-1]


def test_the_best_answer_is_the_best_scored_and_the_later_of_equals() -> None:
    assert best_index([0.2, 0.6, 0.4]) == 1
    assert best_index([0.6, 0.6]) == 1
    assert best_index([0.0, None]) == 0
    assert best_index([None, None]) == 1


@given(policies, st.data())
def test_a_kept_answer_serves_only_where_the_policy_would_end_there(
    policy: Policy, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(policy.rungs) - 1))
    chances = {tier: data.draw(probability) for tier in policy.ladder}
    score = data.draw(probability)
    tier = policy.ladder[index]
    serves = still_serves(policy, tier, probabilities=chances, score=score)
    would = start_index(policy, chances) <= index and accepts(policy, index, score)
    assert serves == would


def test_the_last_tiers_answers_always_serve_and_strangers_never() -> None:
    strict = Policy(1, (Rung("a", 1.0, 1.0), Rung("z")))
    assert still_serves(strict, "z", probabilities=None, score=None)
    assert not still_serves(strict, "gone", probabilities={"gone": 1.0}, score=1.0)
    assert not still_serves(strict, "a", probabilities={"a": 1.0}, score=None)
    assert not still_serves(strict, "a", probabilities=None, score=1.0)
