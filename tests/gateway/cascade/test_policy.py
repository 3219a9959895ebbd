"""A policy is validated whole, or refused naming the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cascade.policy import Policy, Rung, parse_rungs
from gateway.errors import PolicyRefused

LADDER = ("brook", "creek", "river")
GOOD = {"brook": {"start": 0.2, "accept": 0.3}, "creek": {"start": 0.4, "accept": 0.5}}
probabilities = st.floats(0, 1)


def with_value(tier: str, key: str, value: Any) -> dict[str, Any]:
    return {**GOOD, tier: {**GOOD.get(tier, {}), key: value}}


BAD_VALUES = [
    float("nan"), float("inf"), float("-inf"), -0.001, 1.001, 2, -1, True, False, None, "0.5", "",
    [], {}, [0.5], 10**400, -(10**400),
]  # fmt: skip


@pytest.mark.parametrize("value", BAD_VALUES, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("key", ["start", "accept"])
@pytest.mark.parametrize("tier", ["brook", "creek"])
def test_every_bad_threshold_is_refused_naming_its_field(tier: str, key: str, value: Any) -> None:
    with pytest.raises(PolicyRefused) as refused:
        parse_rungs(with_value(tier, key, value), LADDER)
    assert refused.value.field == f"tiers.{tier}.{key}"


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({**GOOD, "ocean": {"start": 0, "accept": 0}}, "tiers.ocean"),
        ({"brook": GOOD["brook"]}, "tiers.creek"),
        ({}, "tiers.brook"),
        ({**GOOD, "brook": {"start": 0.1}}, "tiers.brook.accept"),
        ({**GOOD, "brook": {"accept": 0.1}}, "tiers.brook.start"),
        ({**GOOD, "brook": {**GOOD["brook"], "begin": 0.1}}, "tiers.brook.begin"),
        ({**GOOD, "brook": 0.5}, "tiers.brook"),
        ({**GOOD, "brook": None}, "tiers.brook"),
        ({**GOOD, "river": {"start": 0.5}}, "tiers.river.start"),
        ({**GOOD, "river": {"accept": 0.5, "start": 0}}, "tiers.river.accept"),
        ({**GOOD, "river": {"other": 0}}, "tiers.river.other"),
        ([], "tiers"),
        (None, "tiers"),
        ("brook", "tiers"),
    ],
)
def test_every_bad_document_is_refused_naming_its_field(document: Any, field: str) -> None:
    with pytest.raises(PolicyRefused) as refused:
        parse_rungs(document, LADDER)
    assert refused.value.field == field


def test_the_last_tier_may_be_left_out_or_carry_zeros() -> None:
    without = parse_rungs(GOOD, LADDER)
    for last in ({}, {"start": 0}, {"start": 0.0, "accept": -0.0}):
        assert parse_rungs({**GOOD, "river": last}, LADDER) == without


def test_what_get_shows_can_be_put_back() -> None:
    policy = Policy(3, parse_rungs(GOOD, LADDER))
    assert parse_rungs(policy.document(), LADDER) == policy.rungs


@given(st.lists(st.tuples(probabilities, probabilities), max_size=4), st.integers(1, 2**53 - 1))
def test_a_policy_survives_its_encoding(pairs: list[tuple[float, float]], version: int) -> None:
    rungs = [Rung(f"tier{i}", start, accept) for i, (start, accept) in enumerate(pairs)]
    policy = Policy(version, (*rungs, Rung("last")))
    again = Policy.decode(policy.encode(), policy.ladder)
    assert again == policy
    assert again.etag == policy.etag
    json.loads(policy.encode())


@given(st.tuples(probabilities, probabilities), st.tuples(probabilities, probabilities))
def test_tags_agree_exactly_when_policies_do(
    one: tuple[float, float], other: tuple[float, float]
) -> None:
    first, second = (Policy(1, (Rung("a", *pair), Rung("z"))) for pair in (one, other))
    assert (first.etag == second.etag) == (first == second)


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"null", b"[1]", b'{"version":1}', b"\xff", b'{"version":0,"tiers":{}}',
            b'{"version":true,"tiers":{}}', b'{"version":1,"tiers":{},"x":1}', b"[" * 100_000]
)  # fmt: skip
def test_bytes_that_are_no_policy_are_refused(raw: bytes) -> None:
    with pytest.raises(PolicyRefused):
        Policy.decode(raw, ("only",)) and Policy.decode(raw, LADDER)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None, 2**53])
def test_a_version_is_a_positive_integer(version: Any) -> None:
    with pytest.raises(PolicyRefused):
        Policy(version, (Rung("a"),))


def test_a_ladder_has_distinct_tiers_and_at_least_one() -> None:
    with pytest.raises(PolicyRefused):
        Policy(1, ())
    with pytest.raises(PolicyRefused):
        Policy(1, (Rung("a"), Rung("a")))


def test_a_successor_has_the_next_version_and_leaves_the_old_one_alone() -> None:
    old = Policy.initial(LADDER)
    new = old.successor(parse_rungs(GOOD, LADDER))
    assert (old.version, new.version) == (1, 2)
    assert old.rungs[0] == Rung("brook", 0.5, 0.5)
    assert new.etag != old.etag


def test_among_some_of_its_tiers_a_policy_keeps_their_thresholds_and_the_last_has_none() -> None:
    policy = Policy(7, (Rung("a", 0.1, 0.2), Rung("b", 0.3, 0.4), Rung("c")))
    assert policy.among({"a", "b"}) == Policy(7, (Rung("a", 0.1, 0.2), Rung("b")))
    assert policy.among({"c", "b", "elsewhere"}) == Policy(7, (Rung("b", 0.3, 0.4), Rung("c")))
    assert policy.among(policy.ladder) == policy
    with pytest.raises(PolicyRefused):
        policy.among({"elsewhere"})
