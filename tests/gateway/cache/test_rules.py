"""Only what would come out the same again, and came out whole, may be kept."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cache.rules import complete, deterministic, max_age_s
from gateway.cascade.answer import Answer, Choice
from gateway.generation import Usage


@pytest.mark.parametrize(
    ("body", "same_again"),
    [
        ({}, False),
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.7}, False),
        ({"temperature": 0.7, "seed": 0}, True),
        ({"seed": 5}, True),
        ({"seed": None}, False),
        ({"temperature": None}, False),
        ({"temperature": False}, False),
        ({"seed": True}, False),
        ({"seed": "5"}, False),
    ],
)
def test_greedy_and_seeded_requests_are_deterministic(body: Any, same_again: bool) -> None:
    assert deterministic(body) is same_again


def answer(*reasons: str | None, tokens: int = 5) -> Answer:
    return Answer(
        tier="t",
        choices=tuple(Choice(text="x", finish_reason=reason) for reason in reasons),
        usage=Usage(completion_tokens=tokens),
    )


@pytest.mark.parametrize(
    ("given", "body", "whole"),
    [
        (answer("stop"), {}, True),
        (answer("stop", "stop"), {}, True),
        (answer("length"), {}, False),
        (answer("length"), {"max_tokens": 5}, True),
        (answer("length"), {"max_completion_tokens": 5}, True),
        (answer("length"), {"max_tokens": 6}, False),
        (answer("stop", "length"), {"max_tokens": 5}, False),
        (answer("content_filter"), {}, False),
        (answer(None), {}, False),
        (answer("stop", None), {}, False),
        (answer("error"), {"max_tokens": 1}, False),
    ],
)
def test_an_answer_is_whole_when_the_request_itself_ended_it(
    given: Answer, body: Any, whole: bool, make_job: Any
) -> None:
    assert complete(make_job(body=body), given) is whole


@pytest.mark.parametrize(
    ("directives", "age_s"),
    [
        ((), None), (("no-cache",), None), (("max-age=60",), 60), (("max-age=0",), 0),
        (('max-age="7"',), 7), (("max-age",), 0), (("max-age=-1",), 0), (("max-age=soon",), 0),
        (("no-transform", "max-age=3"), 3),
    ],
)  # fmt: skip
def test_the_age_a_caller_accepts_is_read_and_nonsense_accepts_none(
    directives: tuple[str, ...], age_s: float | None
) -> None:
    assert max_age_s(frozenset(directives)) == age_s
