"""What a tier is sent, and what of its log-probs a client sees."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.cascade.answer import Answer, Choice
from gateway.cascade.asking import able, plain_question, question
from gateway.errors import ApiError
from gateway.generation import Delta, Usage

ALL = SimpleNamespace(capabilities=frozenset({"prediction", "logprobs", "drafts"}))


def answer(*texts: str) -> Answer:
    choices = tuple(Choice(text=text, finish_reason="stop") for text in texts)
    return Answer(tier="t", choices=choices, usage=Usage())


def test_nothing_is_added_when_there_is_nothing_to_add(make_job: Any) -> None:
    job = make_job()
    asked = question(job, ALL)
    assert (asked.body, asked.added, asked.handed_up) == (job.body, False, ())


def test_our_own_engine_hears_how_long_the_answer_will_probably_be(make_job: Any) -> None:
    job = make_job()
    asked = question(job, ALL, expected_tokens=12.6, rejected=[answer("a", "b")])
    assert asked.body["spillway"]["predicted_tokens"] == 13
    assert len(asked.body["spillway"]["drafts"]) == 1
    assert question(job, ALL, expected_tokens=1e300).body["spillway"] == {"predicted_tokens": 10**9}
    alone = question(job, ALL, expected_tokens=12.6)
    assert not alone.added, "an engine that refuses the request is not asked again without it"
    foreign = SimpleNamespace(capabilities=frozenset({"logprobs"}))
    assert question(job, foreign, expected_tokens=12.6).body == job.body


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({}, (True, 2)),
        ({"logprobs": False}, (True, 2)),
        ({"logprobs": True}, (True, 2)),
        ({"logprobs": True, "top_logprobs": 1}, (True, 2)),
        ({"logprobs": True, "top_logprobs": 20}, (True, 20)),
    ],
)
def test_the_judge_gets_its_rivals_and_the_client_no_fewer_than_asked(
    make_job: Any, body: Any, sent: Any
) -> None:
    asked = question(make_job(body=body), ALL, judge_rivals=2).body
    assert (asked["logprobs"], asked["top_logprobs"]) == sent


@pytest.mark.parametrize(("wanted", "sent"), [(None, 2), (0, 2), (1, 2), (5, 5)])
def test_text_completions_count_rivals_in_one_field(
    make_job: Any, wanted: int | None, sent: int
) -> None:
    body = {"prompt": "x"} | ({} if wanted is None else {"logprobs": wanted})
    job = replace(make_job(endpoint="completions"), body=body)
    asked = question(job, ALL, judge_rivals=2)
    assert asked.body["logprobs"] == sent
    assert asked.rivals == wanted


def test_the_clients_body_is_never_changed(make_job: Any) -> None:
    job = make_job()
    before = dict(job.body)
    question(job, ALL, judge_rivals=2, rejected=[answer("a"), answer("b")])
    assert job.body == before


def test_several_choices_go_up_as_drafts_without_repetition(make_job: Any) -> None:
    job = make_job(body={"n": 3})
    asked = question(job, ALL, rejected=[answer("old", "a", ""), answer("a", "b", "a")])
    assert "prediction" not in asked.body
    texts = [draft["text"] for draft in asked.body["spillway"]["drafts"]]
    assert texts == ["a", "b", "old"]
    plain = SimpleNamespace(capabilities=frozenset({"prediction"}))
    assert question(job, plain, rejected=[answer("a", "b", "c")]).handed_up == ()


def test_an_empty_answer_is_not_handed_up(make_job: Any) -> None:
    assert question(make_job(), ALL, rejected=[answer("")]).handed_up == ()


def test_at_most_as_many_drafts_are_sent_as_an_engine_takes(make_job: Any) -> None:
    job = make_job(body={"n": 40})
    many = question(job, ALL, rejected=[answer(*(str(at) for at in range(40)))])
    assert len(many.body["spillway"]["drafts"]) == 16


ENTRY = {"token": "a", "logprob": -0.1, "top_logprobs": [{"token": "a"}, {"token": "b"}]}


@pytest.mark.parametrize(
    ("body", "rivals"),
    [({}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 1}, 1)],
)
def test_a_client_sees_the_log_probs_it_asked_for(
    make_job: Any, body: Any, rivals: int | None
) -> None:
    shown = plain_question(make_job(body=body)).shown(Delta(text="a", logprobs=(ENTRY,)))
    if rivals is None:
        assert shown.logprobs is None
    else:
        assert shown.logprobs is not None
        assert shown.logprobs[0]["top_logprobs"] == ENTRY["top_logprobs"][:rivals]  # type: ignore[index]
    assert len(ENTRY["top_logprobs"]) == 2  # type: ignore[arg-type]


LOG_PROBS: list[tuple[Any, Any]] = [
    ("chat", {"logprobs": True}),
    ("chat", {"logprobs": True, "top_logprobs": 2}),
    ("completions", {"prompt": "x", "logprobs": 0}),
    ("completions", {"prompt": "x", "logprobs": 5}),
]


@pytest.mark.parametrize(("endpoint", "body"), LOG_PROBS)
async def test_a_pinned_tier_that_gives_no_log_probs_refuses_them_by_name(
    make_cascade: Any, make_job: Any, asking: Any, ladder: Any, endpoint: Any, body: Any
) -> None:
    ladder["brook"].capabilities = frozenset({"prediction"})
    job = make_job(model="brook", endpoint=endpoint, body=body)
    with pytest.raises(ApiError) as refused:
        await asking(make_cascade(), job)
    assert (refused.value.status, refused.value.param) == (400, "logprobs")
    assert refused.value.code == "unsupported_parameter"
    assert not ladder["brook"].bodies
    assert (await asking(make_cascade(), replace(job, model="creek"))).text == "I am creek"


@pytest.mark.parametrize(("endpoint", "body"), LOG_PROBS)
async def test_tiers_that_give_no_log_probs_are_skipped_when_they_are_asked_for(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any, endpoint: Any,
    body: Any,
) -> None:  # fmt: skip
    ladder["brook"].capabilities = ladder["river"].capabilities = frozenset()
    sure = {"brook": 0.9, "creek": 0.9, "river": 0.9}
    cascade = make_cascade(estimator=estimator(sure, {"brook": 0.9, "creek": 0.1}))
    got = await asking(cascade, make_job(endpoint=endpoint, body=body))
    assert got.text == "I am creek"
    assert not ladder["brook"].bodies and not ladder["river"].bodies
    ladder["creek"].capabilities = frozenset()
    with pytest.raises(ApiError) as refused:
        await asking(cascade, make_job(endpoint=endpoint, body=body))
    assert (refused.value.status, refused.value.param) == (400, "logprobs")


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [("chat", {"logprobs": False}), ("completions", {}), ("chat", {"prediction": {"type": "x"}})],
)
def test_whoever_asks_for_no_log_probs_may_be_answered_by_any_tier(
    make_job: Any, endpoint: Any, body: Any
) -> None:
    plain = SimpleNamespace(capabilities=frozenset())
    assert able(make_job(endpoint=endpoint, body=body), (plain, ALL)) == (plain, ALL)


def test_what_one_tier_lacks_and_another_too_is_refused_by_the_name_of_what_was_left(
    make_job: Any,
) -> None:
    talks, drafts = (
        SimpleNamespace(capabilities=frozenset({one})) for one in ("logprobs", "drafts")
    )
    job = replace(make_job(body={"logprobs": True}), speculation={"mode": "fixed"})
    assert able(job, (talks, ALL, drafts)) == (ALL,)
    with pytest.raises(ApiError) as refused:
        able(job, (talks, drafts))
    assert (refused.value.status, refused.value.param) == (400, "spillway.speculation.mode")
