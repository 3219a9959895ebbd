"""A key carries everything that can change an answer, and nothing that tells who asked."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.key import Keys
from gateway.generation import Identity, Job

SECRET = b"s" * 32
BODY = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0}


def tiers(*prints: str | None) -> Any:
    return [SimpleNamespace(name=f"t{at}", fingerprint=one) for at, one in enumerate(prints)]


def job(body: Mapping[str, Any] = BODY, *, tenant: str = "t", **parts: Any) -> Job:
    given = {"request_id": "r", "endpoint": "chat", "model": "auto", "body": body}
    return Job(**{**given, "identity": Identity(tenant=tenant), **parts})


def key(*args: Any, prints: tuple[str | None, ...] = ("a", "b"), **parts: Any) -> str | None:
    return Keys(SECRET).of(job(*args, **parts), tiers(*prints))


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "u"},
        {"endpoint": "completions"},
        {"model": "t1"},
        {"body": {**BODY, "temperature": 0.5}},
        {"body": {**BODY, "seed": 1}},
        {"body": {**BODY, "n": 2}},
        {"body": {**BODY, "max_tokens": 5}},
        {"body": {**BODY, "logprobs": True}},
        {"body": {**BODY, "a_field_of_tomorrow": None}},
        {"body": {**BODY, "messages": [{"role": "system", "content": "hi"}]}},
        {"body": {**BODY, "messages": [*BODY["messages"], *BODY["messages"]]}},  # type: ignore[misc]
        {"body": {**BODY, "prediction": {"type": "content", "content": "x"}}},
        {"speculation": {"mode": "off"}},
        {"prints": ("a", "c")},
        {"prints": ("b", "a")},
        {"prints": ("a",)},
        {"prints": ("ab", "")},
    ],
)
def test_whatever_can_change_an_answer_changes_the_key(other: dict[str, Any]) -> None:
    assert key(**other) not in (None, key())


def test_what_cannot_change_an_answer_leaves_the_key_alone() -> None:
    same = {"request_id": "s", "stream": True, "want_receipt": True, "deadline_s": 3.0}
    assert key(**same, cache_control=frozenset({"max-age=3"})) == key()


@pytest.mark.parametrize("prints", [(), (None,), ("a", None)])
def test_tiers_of_unknown_weights_have_no_key(prints: tuple[str | None, ...]) -> None:
    assert key(prints=prints) is None


def test_a_body_that_is_not_json_has_no_key() -> None:
    assert key({**BODY, "x": float("nan")}) is None


def test_another_secret_makes_other_keys_and_no_key_tells_the_tenant() -> None:
    mine = key(tenant="acme corporation")
    assert Keys(b"t" * 32).of(job(tenant="acme corporation"), tiers("a", "b")) != mine
    assert mine is not None
    assert "acme" not in mine


texts = st.text(max_size=6)
requests = st.tuples(
    texts, st.sampled_from(["chat", "completions"]), texts,
    st.dictionaries(texts, texts | st.integers(0, 3) | st.lists(texts, max_size=2), max_size=3),
    st.lists(texts, min_size=1, max_size=3),
)  # fmt: skip


@given(requests, requests)
def test_two_requests_share_a_key_exactly_when_they_are_the_same(one: Any, other: Any) -> None:
    def made(tenant: str, endpoint: str, model: str, body: Any, prints: list[str]) -> str | None:
        return key(body, tenant=tenant, endpoint=endpoint, model=model, prints=tuple(prints))

    assert (made(*one) == made(*other)) == (one == other)


def test_keys_stay_as_they_are() -> None:
    """Golden: a change here silently empties every cache; raise SCHEMA when it is meant."""
    assert key() == GOLDEN


GOLDEN = (
    "spillway:rc:2:333e7bfd3bf33999bcaa88a934577bd5:"
    "a89217249d00a18a74a264247bc094e4bbd5edb78d11814c1084d59795993aa5"
)
