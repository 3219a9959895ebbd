"""A tier client against servers that behave, misbehave, and our own engine."""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from gateway.errors import ApiError, TierBroken, TierUnavailable
from gateway.generation import Delta, Job, TierDone, Usage
from gateway.tiers.health import probe
from gateway.tiers.refusals import TierBusy

DONE = b"data: [DONE]\n\n"
BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}


async def _all(tier: Any, job: Job, body: Any = BODY) -> tuple[str, TierDone]:
    text, done = "", None
    async for event in tier.stream(job, body):
        if isinstance(event, Delta):
            text += event.text
        else:
            done = event
    assert done is not None
    return text, done


async def test_text_usage_and_fingerprint_of_a_good_stream(
    foreign: Any, tier_of: Any, job: Job, send: Any, event: Any
) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    last = event(usage=usage).replace(b'"choices": [{', b'"ignored": [{')
    foreign.script = send(event("he"), event("llo"), event(finish="stop"), last, DONE)
    tier = tier_of(foreign.base, revision="r7", api_key="k")
    text, done = await _all(tier, job)
    assert text == "hello"
    assert done.usage == Usage(prompt_tokens=3, completion_tokens=2)
    assert done.fingerprint == "big@r7"
    sent = foreign.bodies[0]
    assert sent["model"] == "big"
    assert sent["stream"] is True
    assert sent["stream_options"] == {"include_usage": True}
    assert foreign.headers[0]["authorization"] == "Bearer k"
    assert foreign.headers[0]["x-request-id"] == "r-1"


async def test_a_connection_is_used_again_after_a_good_stream(
    foreign: Any, tier_of: Any, job: Job, send: Any, event: Any
) -> None:
    ports = []

    async def script(request: web.Request, response: web.StreamResponse) -> None:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        await send(event("x"), event(finish="stop"), DONE)(request, response)

    foreign.script = script
    tier = tier_of(foreign.base)
    for _ in range(3):
        await _all(tier, job)
    assert len(set(ports)) == 1


async def test_a_server_that_never_closes_after_done_holds_nobody_up(
    foreign: Any, tier_of: Any, job: Job, send: Any, event: Any
) -> None:
    foreign.script = send(event("x"), event(finish="stop"), DONE, 3600.0)
    assert (await _all(tier_of(foreign.base), job))[0] == "x"
    await asyncio.wait_for(foreign.hung_up.wait(), 30)


@pytest.mark.parametrize("ending", [b"", DONE, b'data: {"error": {"message": "gone"}}\n\n'])
async def test_an_answer_that_breaks_off_is_broken(
    foreign: Any, tier_of: Any, job: Job, send: Any, event: Any, ending: bytes
) -> None:
    foreign.script = send(event("half"), ending)
    stream = tier_of(foreign.base).stream(job, BODY)
    assert (await anext(stream)).text == "half"
    with pytest.raises(TierBroken):
        await anext(stream)


async def test_a_finish_without_done_is_an_end(
    foreign: Any, tier_of: Any, job: Job, send: Any, event: Any
) -> None:
    foreign.script = send(event("x"), event(finish="length"))
    assert (await _all(tier_of(foreign.base), job))[0] == "x"


@pytest.mark.parametrize(
    "pieces",
    [
        (b"",),
        (DONE,),
        (b'data: {"error": {"message": "out of memory"}}\n\n',),
        (b"data: {{{\n\n",),
        (b"data: \xff\n\n",),
    ],
)
async def test_a_stream_that_fails_before_any_text_leaves_the_tier_unavailable(
    foreign: Any, tier_of: Any, job: Job, send: Any, pieces: Any
) -> None:
    foreign.script = send(*pieces)
    with pytest.raises(TierUnavailable):
        await _all(tier_of(foreign.base), job)


async def test_an_abort_in_the_middle_is_broken_and_before_it_unavailable(
    foreign: Any, tier_of: Any, job: Job, event: Any
) -> None:
    begin = True

    async def script(request: web.Request, response: web.StreamResponse) -> None:
        if begin:
            await response.write(event("x"))
        assert request.transport is not None
        await asyncio.sleep(0.05)
        request.transport.abort()

    foreign.script = script
    tier = tier_of(foreign.base)
    with pytest.raises(TierBroken):
        await _all(tier, job)
    begin = False
    with pytest.raises(TierUnavailable):
        await _all(tier, job)


async def test_silence_ends_in_a_timeout_but_slow_streams_do_not(
    foreign: Any, tier_of: Any, job: Job, send: Any, event: Any
) -> None:
    tier = tier_of(foreign.base, read_timeout_s=1.5)
    pieces = [piece for text in "slowly" for piece in (event(text), 0.3)]
    foreign.script = send(*pieces, event(finish="stop"), DONE)
    assert (await _all(tier, job))[0] == "slowly"
    foreign.script = send(event("x"), 3600.0)
    with pytest.raises(TierBroken):
        await _all(tier, job)


async def test_closing_the_stream_hangs_up(
    foreign: Any, tier_of: Any, job: Job, send: Any, event: Any
) -> None:
    foreign.script = send(event("x"), 3600.0)
    async with aclosing(tier_of(foreign.base).stream(job, BODY)) as stream:
        async for _ in stream:
            break
    await asyncio.wait_for(foreign.hung_up.wait(), 30)


async def test_cancelling_before_the_first_byte_hangs_up_too(
    foreign: Any, tier_of: Any, job: Job, send: Any
) -> None:
    foreign.script = send(3600.0)
    tier = tier_of(foreign.base)
    asking = asyncio.create_task(_all(tier, job))
    while not foreign.bodies:  # noqa: ASYNC110 - the server's side
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.wait_for(foreign.hung_up.wait(), 30)
    assert tier.breaker.state == "closed"


async def test_fields_a_server_cannot_take_are_left_out(
    foreign: Any, tier_of: Any, job: Job, send: Any, event: Any
) -> None:
    foreign.script = send(event("x"), event(finish="stop"), DONE)
    extras = {
        "logprobs": True,
        "top_logprobs": 2,
        "prediction": {"type": "content", "content": "x"},
        "spillway": {"drafts": [{"kind": "near_hit", "text": "y"}]},
        "cache_salt": "the client's",
    }
    await _all(tier_of(foreign.base), job, {**BODY, **extras})
    assert not foreign.bodies[0].keys() & extras.keys()
    everything = ["prediction", "logprobs", "cache_salt", "fingerprint", "drafts"]
    told = replace(job, speculation={"mode": "off"})
    await _all(tier_of(foreign.base, capabilities=everything), told, {**BODY, **extras})
    sent = foreign.bodies[1]
    assert sent["prediction"] == extras["prediction"]
    assert sent["top_logprobs"] == 2
    assert sent["cache_salt"] == "salt"
    assert sent["spillway"] == {
        "drafts": [{"kind": "near_hit", "text": "y"}],
        "receipt": True,
        "speculation": {"mode": "off"},
    }


async def test_a_server_that_knows_no_stream_options_is_asked_without(
    foreign: Any, tier_of: Any, job: Job, send: Any, event: Any
) -> None:
    def refuse(body: Any) -> web.Response | None:
        if "stream_options" not in body:
            return None
        return web.json_response({"error": {"message": "unknown: stream_options"}}, status=400)

    foreign.refuse = refuse
    foreign.script = send(event("a"), event("b"), event(finish="stop"), DONE)
    tier = tier_of(foreign.base)
    for _ in range(2):
        _, done = await _all(tier, job)
        assert done.usage.completion_tokens == 2
    assert ["stream_options" in body for body in foreign.bodies] == [True, False, False]


async def test_refusals_keep_their_meaning(foreign: Any, tier_of: Any, job: Job) -> None:
    error = {"error": {"message": "too hot", "param": "temperature", "code": "c"}}
    foreign.refuse = lambda body: web.json_response(error, status=400)
    with pytest.raises(ApiError) as refused:
        await _all(tier_of(foreign.base), job)
    assert (refused.value.status, refused.value.param) == (400, "temperature")
    busy = web.json_response({}, status=429, headers={"retry-after": "3"})
    foreign.refuse = lambda body: busy
    with pytest.raises(TierBusy) as full:
        await _all(tier_of(foreign.base), job)
    assert full.value.retry_after_s == 3


async def test_another_content_type_or_a_redirect_is_no_answer(
    foreign: Any, tier_of: Any, job: Job, send: Any
) -> None:
    foreign.content_type = "text/html"
    foreign.script = send(b"<html>")
    with pytest.raises(TierUnavailable, match="text/html"):
        await _all(tier_of(foreign.base), job)
    foreign.refuse = lambda body: web.Response(status=307, headers={"location": foreign.base})
    with pytest.raises(TierUnavailable, match="307"):
        await _all(tier_of(foreign.base), job)


async def test_failures_in_a_row_open_the_breaker_and_busy_or_refused_ones_do_not(
    foreign: Any, tier_of: Any, job: Job, send: Any, event: Any
) -> None:
    tier = tier_of(foreign.base)
    for status in (429, 400):
        foreign.refuse = lambda body, status=status: web.json_response({}, status=status)
        for _ in range(10):
            with pytest.raises((ApiError, TierUnavailable)):
                await _all(tier, job)
    assert tier.usable()
    foreign.refuse = lambda body: web.json_response({}, status=503)
    asked = len(foreign.bodies)
    for _ in range(10):
        with pytest.raises(TierUnavailable):
            await _all(tier, job)
    assert not tier.usable()
    assert len(foreign.bodies) - asked == 5


async def test_a_line_longer_than_the_timeout_is_a_busy_tier_and_no_broken_one(
    tier_of: Any, job: Job
) -> None:
    """Its server takes connections and says nothing, as one does while requests wait in line."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tier = tier_of(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", read_timeout_s=0.05)
        for _ in range(6):  # one more than opens a breaker
            with pytest.raises(TierBusy, match="no answer began"):
                await _all(tier, job)
    assert tier.usable()
    assert tier.vitals.suspect.is_set()


async def test_nobody_listening_is_unavailable_and_worth_a_look(
    tier_of: Any, job: Job, free_port: Any
) -> None:
    tier = tier_of(f"http://127.0.0.1:{free_port()}/v1")
    with pytest.raises(TierUnavailable):
        await _all(tier, job)
    assert tier.vitals.suspect.is_set()


async def test_health_reads_what_a_server_lists(foreign: Any, tier_of: Any) -> None:
    tier = tier_of(foreign.base)
    await probe(tier)
    assert tier.vitals.ready
    assert tier.max_model_len is None
    entry = {"id": "big", "max_model_len": 4096, "fingerprint": "fp_x"}
    foreign.models = web.json_response({"data": [{"id": "other"}, entry]})
    await probe(tier)
    assert (tier.fingerprint, tier.max_model_len) == ("fp_x", 4096)
    for status, usable in ((503, False), (500, True), (401, False), (404, True)):
        foreign.models = web.json_response({}, status=status)
        await probe(tier)
        assert tier.usable() == usable
    foreign.models = web.json_response("nonsense")
    await probe(tier)
    assert tier.usable()


async def test_our_own_engine_is_a_tier_like_any_other(
    shared_engine: Any, tier_of: Any, job: Job
) -> None:
    everything = ["prediction", "logprobs", "cache_salt", "fingerprint", "drafts"]
    tier = tier_of(f"{shared_engine.base}/v1", model="large", capabilities=everything)
    await probe(tier)
    assert tier.usable()
    assert tier.max_model_len == 256
    body = {**BODY, "temperature": 0, "logprobs": True, "max_tokens": 12}
    text, done = await _all(tier, job, body)
    assert done.usage.completion_tokens == 12
    assert done.fingerprint == tier.fingerprint
    assert done.receipt is not None
    assert done.receipt["output_tokens"] == 12
    handed = {**body, "prediction": {"type": "content", "content": text}}
    again, with_prediction = await _all(tier, job, handed)
    assert again == text
    assert with_prediction.usage.accepted_prediction_tokens > 0


async def test_our_own_engine_is_a_foreign_tier_without_capabilities(
    shared_engine: Any, tier_of: Any, job: Job
) -> None:
    plain = tier_of(f"{shared_engine.base}/v1", model="large", revision="r1")
    text, done = await _all(plain, job, {**BODY, "temperature": 0, "logprobs": True})
    assert text
    assert done.receipt is None
    assert done.fingerprint == "large@r1"


async def test_text_completions_stream_with_several_choices_and_logprobs(
    shared_engine: Any, tier_of: Any, job: Job
) -> None:
    tier = tier_of(f"{shared_engine.base}/v1", model="large", capabilities=["logprobs"])
    asked = {"prompt": "the quick", "n": 2, "max_tokens": 6, "logprobs": 1, "seed": 1}
    deltas = []
    async for event in tier.stream(replace(job, endpoint="completions"), asked):
        deltas.append(event)
    done = deltas.pop()
    assert done.usage.completion_tokens == 12
    for choice in (0, 1):
        mine = [delta for delta in deltas if delta.choice == choice]
        assert sum(len(delta.logprobs or ()) for delta in mine) == 6
        assert mine[-1].finish_reason == "length"
