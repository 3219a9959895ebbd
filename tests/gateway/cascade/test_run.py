"""The cascade routes, judges, escalates, and answers while any tier can."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import ApiError, ConfigError, TierBroken, TierUnavailable
from gateway.generation import Delta, Identity, Job, Started, TierDone, TierEvent, Usage
from gateway.tiers.refusals import TierBusy

SURE = {"brook": 0.9, "creek": 0.9, "river": 0.9}


async def test_the_cheapest_tier_that_is_likely_to_do_answers_and_no_other_is_asked(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any
) -> None:
    likely = {"brook": 0.2, "creek": 0.8, "river": 0.9}
    got = await asking(make_cascade(estimator=estimator(likely, {"creek": 0.7})), make_job())
    assert got.text == "I am creek"
    assert got.started == Started(tier="creek", policy_version=4)
    assert got.outcomes == [("creek", "accepted")]
    assert not ladder["brook"].bodies
    assert not ladder["river"].bodies


async def test_a_rejected_answer_is_replaced_and_handed_up_as_a_prediction(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any
) -> None:
    scores = {"brook": 0.1, "creek": 0.2}
    got = await asking(make_cascade(estimator=estimator(SURE, scores)), make_job())
    assert got.text == "I am river"
    assert got.outcomes == [("brook", "rejected"), ("creek", "rejected"), ("river", "answered")]
    said = [ladder[name].bodies[0] for name in ladder]
    assert "prediction" not in said[0]
    assert said[1]["prediction"] == {"type": "content", "content": "I am brook"}
    assert said[2]["prediction"] == {"type": "content", "content": "I am creek"}
    assert said[2]["spillway"] == {"drafts": [{"kind": "rejected_answer", "text": "I am brook"}]}


async def test_a_clients_own_prediction_stays_and_the_rejected_answer_goes_as_a_draft(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any
) -> None:
    mine = {"type": "content", "content": "mine"}
    job = make_job(body={"prediction": mine})
    await asking(make_cascade(estimator=estimator(SURE, {"brook": 0.1, "creek": 0.9})), job)
    body = ladder["creek"].bodies[0]
    assert body["prediction"] == mine
    assert body["spillway"] == {"drafts": [{"kind": "rejected_answer", "text": "I am brook"}]}


@pytest.mark.parametrize("capabilities", [frozenset(), frozenset({"logprobs"})])
async def test_a_foreign_tier_is_sent_nothing_it_did_not_declare(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any,
    capabilities: frozenset[str],
) -> None:  # fmt: skip
    for tier in ladder.values():
        tier.capabilities = capabilities
    job = make_job()
    got = await asking(make_cascade(estimator=estimator(SURE, {"brook": 0.1})), job)
    assert got.text == "I am creek"
    extra = {"logprobs", "top_logprobs"} if capabilities else set()
    assert set(ladder["brook"].bodies[0]) == set(job.body) | extra
    assert set(ladder["creek"].bodies[0]) == set(job.body) | extra


async def test_log_probs_for_the_judge_do_not_reach_a_client_who_did_not_ask(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any
) -> None:
    seen: list[Any] = []

    def judge(tier: str, choice: Any) -> float:
        seen.append(choice.logprobs)
        return 1.0

    got = await asking(make_cascade(estimator=estimator(SURE, judge=judge)), make_job())
    assert [len(entry["top_logprobs"]) for entry in seen[0]] == [2, 2]
    assert all(delta.logprobs is None for delta in got.deltas)


@pytest.mark.parametrize(("rivals", "shown"), [(0, 0), (1, 1), (5, 2)])
async def test_a_client_gets_as_many_rivals_as_it_asked_for(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any, rivals: int,
    shown: int,
) -> None:  # fmt: skip
    job = make_job(body={"logprobs": True, "top_logprobs": rivals})
    got = await asking(make_cascade(estimator=estimator(SURE, {"brook": 1.0})), job)
    assert ladder["brook"].bodies[0]["top_logprobs"] == max(2, rivals)
    entries = [entry for delta in got.deltas for entry in delta.logprobs]
    assert [len(entry["top_logprobs"]) for entry in entries] == [shown, shown]


async def test_the_last_tier_streams_as_it_speaks_and_a_judged_one_speaks_at_once(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any
) -> None:
    judged = await asking(make_cascade(estimator=estimator(SURE, {"brook": 1.0})), make_job())
    assert [delta.text for delta in judged.deltas] == ["I am brook"]
    live = await asking(make_cascade(estimator=estimator({})), make_job())
    assert [delta.text for delta in live.deltas] == ["I am ", "river"]


async def test_several_choices_are_as_good_as_the_worst_of_them(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any
) -> None:
    opinions = iter([0.9, 0.2, 0.9])
    scores = estimator(SURE, judge=lambda tier, choice: next(opinions))
    got = await asking(make_cascade(estimator=scores), make_job(body={"n": 3, "seed": 1}))
    assert got.outcomes[0] == ("brook", "rejected")
    assert got.finished.receipt["tiers"][0]["score"] == 0.2


async def test_all_choices_of_an_accepted_answer_are_given(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any
) -> None:
    scores = estimator(SURE, {"brook": 1.0})
    got = await asking(make_cascade(estimator=scores), make_job(body={"n": 3}))
    assert [(one.choice, one.text, one.finish_reason) for one in got.deltas] == [
        (at, "I am brook", "stop") for at in range(3)
    ]


async def test_without_a_router_the_last_tier_answers_or_the_one_that_is_named(
    make_cascade: Any, make_job: Any, asking: Any
) -> None:
    assert (await asking(make_cascade(), make_job())).text == "I am river"
    named = make_cascade(start_without_router="brook")
    assert (await asking(named, make_job())).text == "I am brook"


async def test_a_pinned_model_is_asked_straight_whatever_the_policy_says(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any
) -> None:
    never = make_cascade(estimator=estimator({}, {"brook": 0.0}))
    job = make_job(model="brook")
    got = await asking(never, job)
    assert [delta.text for delta in got.deltas] == ["I am ", "brook"]
    assert ladder["brook"].bodies == [job.body]
    assert not ladder["river"].bodies


def allowed(*models: str) -> Identity:
    return Identity(tenant="t", allowed_models=frozenset(models))


@pytest.mark.parametrize(
    ("models", "outcomes"),
    [
        (("auto",), [("brook", "rejected"), ("creek", "rejected"), ("river", "answered")]),
        (("auto", "brook"), [("brook", "answered")]),
        (("auto", "brook", "creek"), [("brook", "rejected"), ("creek", "answered")]),
        (("auto", "creek", "river", "gone"), [("creek", "rejected"), ("river", "answered")]),
    ],
)
async def test_auto_alone_lets_a_key_use_every_tier_and_tiers_named_beside_it_only_those(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any,
    models: tuple[str, ...], outcomes: list[tuple[str, str]],
) -> None:  # fmt: skip
    cascade = make_cascade(estimator=estimator(SURE, {"brook": 0.1, "creek": 0.2}))
    got = await asking(cascade, make_job(identity=allowed(*models)))
    assert got.outcomes == outcomes
    assert got.finished.receipt["start"] == outcomes[0][0]
    asked = [name for name, tier in ladder.items() if tier.bodies]
    assert asked == [name for name, _ in outcomes]


async def test_a_key_never_falls_back_to_a_tier_it_does_not_name(
    make_cascade: Any, make_job: Any, asking: Any, ladder: Any
) -> None:
    cascade = make_cascade(start_without_router="creek")
    got = await asking(cascade, make_job(identity=allowed("auto", "brook", "river")))
    assert got.started.tier == "river"
    ladder["brook"].up = False
    with pytest.raises(ApiError) as refused:
        await asking(cascade, make_job(identity=allowed("auto", "brook")))
    assert refused.value.status == 503
    assert not ladder["creek"].bodies


@pytest.mark.parametrize("models", [("auto", "gone"), ()])
async def test_a_key_that_names_no_tier_there_is_is_refused(
    make_cascade: Any, make_job: Any, asking: Any, models: tuple[str, ...]
) -> None:
    with pytest.raises(ApiError) as refused:
        await asking(make_cascade(), make_job(identity=allowed(*models)))
    assert (refused.value.status, refused.value.code) == (403, "model_not_allowed")


async def test_a_cached_answer_of_a_tier_that_a_key_does_not_name_is_not_given_to_it(
    make_cascade: Any, make_job: Any, asking: Any
) -> None:
    cascade, greedy = make_cascade(cached=True), {"temperature": 0}
    assert (await asking(cascade, make_job(body=greedy))).started.tier == "river"
    await cascade._cache.flush()
    got = await asking(cascade, make_job(body=greedy, identity=allowed("auto", "brook")))
    assert (got.started.tier, got.text) == ("brook", "I am brook")
    again = await asking(cascade, make_job(body=greedy))
    assert "hit" in again.started.cache_status


async def test_an_unknown_model_is_not_found(make_cascade: Any, make_job: Any, asking: Any) -> None:
    with pytest.raises(ApiError) as refused:
        await asking(make_cascade(), make_job(model="ocean"))
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")


async def test_an_unusable_tier_is_skipped(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any
) -> None:
    ladder["brook"].up = False
    got = await asking(make_cascade(estimator=estimator(SURE, {"creek": 1.0})), make_job())
    assert got.outcomes == [("brook", "unusable"), ("creek", "accepted")]


@pytest.mark.parametrize(
    ("error", "before", "outcome"),
    [
        (TierUnavailable("brook", "dead"), (), "unavailable"),
        (TierBusy("brook", "429"), (), "busy"),
        (TierBroken("cut"), ("I a",), "broken"),
        (ApiError(400, "too long", code="context_length_exceeded"), (), "refused"),
        (TimeoutError(), (), "broken"),
        (ZeroDivisionError(), ("I a",), "broken"),
    ],
)
async def test_a_tier_that_fails_while_nothing_was_shown_is_passed_over(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any, speech: Any,
    error: Exception, before: tuple[str, ...], outcome: str,
) -> None:  # fmt: skip
    ladder["brook"].script = speech.fails(error, *before)
    got = await asking(make_cascade(estimator=estimator(SURE, {"creek": 1.0})), make_job())
    assert got.text == "I am creek"
    assert got.outcomes == [("brook", outcome), ("creek", "accepted")]
    assert "I a" not in str(ladder["creek"].bodies)


async def test_a_failure_after_text_was_shown_is_told_and_never_spliced(
    make_cascade: Any, make_job: Any, ladder: Any, speech: Any
) -> None:
    ladder["river"].script = speech.fails(TierBroken("cut"), "I a")
    async with aclosing(make_cascade().answer(make_job())) as events:
        assert [type(await anext(events)) for _ in range(2)] == [Started, Delta]
        with pytest.raises(TierBroken):
            await anext(events)
    assert not ladder["creek"].bodies


async def test_the_best_answer_is_given_when_the_larger_tiers_are_gone(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any, speech: Any
) -> None:
    ladder["river"].script = speech.fails(TierUnavailable("river", "dead"))
    got = await asking(
        make_cascade(estimator=estimator(SURE, {"brook": 0.4, "creek": 0.3})), make_job()
    )
    assert got.text == "I am brook"
    assert got.started.tier == "brook"
    assert got.outcomes == [
        ("brook", "returned"), ("creek", "rejected"), ("river", "unavailable"),
    ]  # fmt: skip


async def test_cheaper_tiers_answer_when_the_wanted_one_is_gone(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any
) -> None:
    ladder["river"].up = False
    got = await asking(make_cascade(estimator=estimator({}, {"creek": 0.1})), make_job())
    assert got.outcomes == [("river", "unusable"), ("creek", "returned")]
    assert got.text == "I am creek"


async def test_nothing_usable_is_503_with_a_time_to_come_back(
    make_cascade: Any, make_job: Any, asking: Any, ladder: Any
) -> None:
    for tier in ladder.values():
        tier.up = False
    for model in ("auto", "river"):
        with pytest.raises(ApiError) as refused:
            await asking(make_cascade(), make_job(model=model))
        assert refused.value.status == 503
        assert int(refused.value.headers["retry-after"]) >= 1


async def test_tiers_that_are_all_merely_busy_are_429_with_a_time_to_come_back(
    make_cascade: Any, make_job: Any, asking: Any, ladder: Any, speech: Any
) -> None:
    for name, tier in ladder.items():
        tier.script = speech.fails(TierBusy(name, "429", retry_after_s=2.5))
    for model in ("auto", "brook"):
        with pytest.raises(ApiError) as refused:
            await asking(make_cascade(), make_job(model=model))
        assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "3")


async def test_a_request_every_tier_refuses_is_refused_in_the_tiers_words(
    make_cascade: Any, make_job: Any, asking: Any, ladder: Any, speech: Any
) -> None:
    for tier in ladder.values():
        tier.script = speech.fails(ApiError(400, "9000 tokens", code="context_length_exceeded"))
    with pytest.raises(ApiError) as refused:
        await asking(make_cascade(), make_job())
    assert (refused.value.status, refused.value.message) == (400, "9000 tokens")


async def test_what_a_server_refuses_of_our_additions_is_left_out(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any, speech: Any
) -> None:
    plain = ladder["creek"].script

    async def picky(job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
        if "prediction" in body and "logprobs" in body:
            raise ApiError(400, "logprobs are not supported with prediction")
        async for event in plain(job, body):
            yield event

    ladder["creek"].script = picky
    job = make_job()
    got = await asking(make_cascade(estimator=estimator(SURE, {"brook": 0.1, "creek": 0.8})), job)
    assert got.text == "I am creek"
    assert ladder["creek"].bodies[1] == job.body
    assert got.finished.receipt["tiers"][1]["handed_up"] == []


async def test_usage_is_the_answering_tiers_and_the_rest_is_in_the_receipt(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any, speech: Any
) -> None:
    engine = {
        "steps": 3, "drafted": 9, "accepted": 6,
        "by_source": {"prediction": {"proposed": 9, "accepted": 6}},
    }  # fmt: skip
    usage = Usage(
        prompt_tokens=5,
        completion_tokens=8,
        accepted_prediction_tokens=6,
        rejected_prediction_tokens=3,
    )
    ladder["creek"].script = speech.says("better", usage=usage, receipt=engine)
    likely = estimator(SURE, {"brook": 0.1, "creek": 0.8})
    got = await asking(make_cascade(estimator=likely), make_job())
    assert got.finished.usage == Usage(prompt_tokens=5, completion_tokens=8)
    receipt = got.finished.receipt
    assert receipt["tier"] == "creek"
    assert receipt["policy_version"] == 4
    assert receipt["probabilities"] == SURE
    assert (receipt["steps"], receipt["drafted"], receipt["accepted"]) == (3, 9, 6)
    assert receipt["by_source"] == engine["by_source"]
    assert receipt["salvaged_tokens"] == 6
    assert receipt["rejected_tokens"] == 2
    assert [one["completion_tokens"] for one in receipt["tiers"]] == [2, 8]
    assert receipt["total_ms"] >= sum(one["ms"] for one in receipt["tiers"]) > 0
    assert all(one["ms"] > 0 for one in receipt["tiers"])


async def test_prediction_tokens_count_when_the_prediction_was_the_clients(
    make_cascade: Any, make_job: Any, asking: Any, ladder: Any, speech: Any
) -> None:
    usage = Usage(completion_tokens=8, accepted_prediction_tokens=6, rejected_prediction_tokens=3)
    ladder["river"].script = speech.says("x", usage=usage)
    job = make_job(body={"prediction": {"type": "content", "content": "x"}})
    assert (await asking(make_cascade(), job)).finished.usage == usage


async def test_no_more_tiers_are_tried_than_allowed(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any
) -> None:
    scores = estimator(SURE, {"brook": 0.1, "creek": 0.2})
    got = await asking(make_cascade(estimator=scores, max_escalations=1), make_job())
    assert got.text == "I am creek"
    assert not ladder["river"].bodies


@pytest.mark.parametrize("score", [None, float("nan")])
async def test_a_judge_without_an_opinion_lets_the_answer_stand(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, score: float | None
) -> None:
    got = await asking(make_cascade(estimator=estimator(SURE, {"brook": score})), make_job())
    assert got.outcomes == [("brook", "accepted")]


async def test_a_router_or_judge_that_fails_never_fails_the_request(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any
) -> None:
    def broken(*_: Any) -> float:
        raise ZeroDivisionError

    judge = make_cascade(estimator=estimator(SURE, judge=broken))
    assert (await asking(judge, make_job())).text == "I am brook"
    router = estimator(SURE)
    router.read = broken
    assert (await asking(make_cascade(estimator=router), make_job())).text == "I am river"


async def test_each_rejection_is_reported_once(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any
) -> None:
    told: list[str] = []
    scores = estimator(SURE, {"brook": 0.1, "creek": 0.9})
    await asking(make_cascade(estimator=scores, escalated=told.append), make_job())
    assert told == ["brook"]


async def test_every_whole_answer_is_counted_rejected_ones_too_and_a_replay_is_not(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any, speech: Any
) -> None:
    used: list[tuple[str, int, int]] = []
    cascade = make_cascade(
        estimator=estimator(SURE, {"brook": 0.1, "creek": 0.9}),
        cached=True,
        used=lambda tier, usage: used.append((tier, usage.prompt_tokens, usage.completion_tokens)),
    )
    job = make_job(body={"temperature": 0})
    await asking(cascade, job)
    assert used == [("brook", 7, 2), ("creek", 7, 2)]
    await cascade._cache.flush()
    assert "hit" in (await asking(cascade, job)).started.cache_status
    assert len(used) == 2
    ladder["creek"].script = speech.fails(TierBroken("cut"), "I a")
    await asking(cascade, make_job())
    assert [tier for tier, _, _ in used[2:]] == ["brook", "river"]


def silence(*events: TierEvent) -> Any:
    async def script(job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
        for event in events:
            yield event
        await asyncio.Event().wait()

    return script


@pytest.mark.parametrize("stage", ["buffered", "live"])
async def test_cancelling_closes_every_tier(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any, stage: str
) -> None:
    likely = SURE if stage == "buffered" else {}
    ladder["brook"].script = ladder["river"].script = silence(Delta(text="I"))
    task = asyncio.create_task(asking(make_cascade(estimator=estimator(likely)), make_job()))
    async with asyncio.timeout(60):
        while not any(tier.open for tier in ladder.values()):  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert sum(tier.open for tier in ladder.values()) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [tier.open for tier in ladder.values()] == [0, 0, 0]


async def test_closing_the_answer_early_closes_its_tier(
    make_cascade: Any, make_job: Any, ladder: Any
) -> None:
    ladder["river"].script = silence(Delta(text="I"))
    events = make_cascade().answer(make_job())
    assert isinstance(await anext(events), Started)
    assert ladder["river"].open == 1
    await events.aclose()
    assert ladder["river"].open == 0


class Clock:
    """Stands still until a tier is silent: no deadline passes while a busy machine computes."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def silence(self, *events: TierEvent) -> Any:
        """A script whose events come at once, and after them nothing for an hour."""

        async def script(job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
            for event in events:
                yield event
            self.now += 3600
            await asyncio.Event().wait()

        return script


async def test_a_deadline_gives_the_best_there_is_or_504(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any
) -> None:
    clock = Clock()
    ladder["creek"].script = ladder["river"].script = clock.silence()
    cascade = make_cascade(estimator=estimator(SURE, {"brook": 0.1}), clock=clock)
    got = await asking(cascade, make_job(deadline_s=0.05))
    assert got.text == "I am brook"
    assert ("creek", "late") in got.outcomes
    assert not ladder["river"].bodies
    ladder["brook"].script = clock.silence()
    with pytest.raises(ApiError) as refused:
        await asking(cascade, make_job(deadline_s=0.05))
    assert refused.value.status == 504
    assert [tier.open for tier in ladder.values()] == [0, 0, 0]


async def test_a_deadline_passed_after_text_was_shown_is_told(
    make_cascade: Any, make_job: Any, asking: Any, ladder: Any
) -> None:
    clock = Clock()
    ladder["river"].script = clock.silence(Delta(text="I"))
    with pytest.raises(TierBroken):
        await asking(make_cascade(deadline_s=0.05, clock=clock), make_job())


async def test_an_answer_that_never_ends_is_cut_and_the_next_tier_asked(
    make_cascade: Any, make_job: Any, asking: Any, estimator: Any, ladder: Any
) -> None:
    async def flood(job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
        for _ in itertools.count():
            yield Delta(text="x" * 1_000_000)

    ladder["brook"].script = flood
    got = await asking(make_cascade(estimator=estimator(SURE, {"creek": 1.0})), make_job())
    assert got.outcomes == [("brook", "broken"), ("creek", "accepted")]
    assert ladder["brook"].open == 0


def test_a_ladder_other_than_the_policys_is_refused(make_cascade: Any, ladder: Any) -> None:
    with pytest.raises(ConfigError):
        make_cascade(start_without_router="ocean")


FAULTS = ("fine", "down", "dead", "cut", "refuses")


@given(
    faults=st.lists(st.sampled_from(FAULTS), min_size=3, max_size=3),
    chances=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    scores=st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_whatever_fails_there_is_an_answer_while_one_tier_is_fine(
    faults: list[str], chances: list[float], scores: list[float], scripted: Any, speech: Any,
    estimator: Any, make_job: Any, asking: Any,
) -> None:  # fmt: skip
    from gateway.cascade.policy import Policy
    from gateway.cascade.run import Cascade

    names = ("a", "b", "c")
    scripts = {
        "fine": speech.says("x"), "down": speech.says("x"),
        "dead": speech.fails(TierUnavailable("t", "dead")),
        "cut": speech.fails(TierUnavailable("t", "cut")),
        "refuses": speech.fails(ApiError(400, "no")),
    }  # fmt: skip
    tiers = [
        scripted(name, scripts[fault], up=fault != "down")
        for name, fault in zip(names, faults, strict=True)
    ]

    class Source:
        current = Policy.initial(names)

    opinions = estimator(
        dict(zip(names, chances, strict=True)), dict(zip(names, scores, strict=True))
    )
    cascade = Cascade(tiers, Source(), estimator=opinions)
    if "fine" in faults:
        got = await asking(cascade, make_job())
        assert got.text == "x"
        assert faults[names.index(got.started.tier)] == "fine"
    else:
        with pytest.raises(ApiError):
            await asking(cascade, make_job())
    assert all(tier.open == 0 for tier in tiers)


async def test_the_engines_word_for_an_empty_answer_is_an_answer(
    make_cascade: Any, make_job: Any, asking: Any, ladder: Any
) -> None:
    async def nothing(job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
        yield Delta(finish_reason="stop")
        yield TierDone(usage=Usage())

    ladder["river"].script = nothing
    got = await asking(make_cascade(), make_job())
    assert (got.text, got.deltas[-1].finish_reason) == ("", "stop")
