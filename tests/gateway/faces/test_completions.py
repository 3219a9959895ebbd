"""Chat and text completions as they go over the wire, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.errors import ApiError, TierBroken, TierUnavailable
from gateway.generation import AnswerEvent, Delta, Finished, Job, Started, Usage

USER = [{"role": "user", "content": "hi"}]
TEXT = "Hello wörld\u2028"


async def events(served: Any, path: str, **body: Any) -> list[Any]:
    """The `data:` of every event; the last one is the raw string ``[DONE]`` when it came."""
    full = {"model": "auto", "stream": True, **body}
    async with served.http.post(served.url + path, json=full) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        raw = await response.read()
    assert raw.endswith(b"\n\n")
    frames = raw.decode().split("\n\n")[:-1]
    data = [frame.removeprefix("data: ") for frame in frames if not frame.startswith(":")]
    assert len(data) == len([frame for frame in frames if frame.startswith("data: ")])
    return [one if one == "[DONE]" else json.loads(one) for one in data]


async def test_a_chat_answer_has_everything_the_schema_requires(served: Any) -> None:
    status, body = await served.chat()
    assert status == 200
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "chat.completion",
        "model": "brook",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 1, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "system_fingerprint": "fp_1",
    }


async def test_a_text_answer_has_everything_the_schema_requires(served: Any) -> None:
    body = {"model": "river", "prompt": "hi", "logprobs": 1}
    status, body = await served.post("/v1/completions", body)
    assert status == 200
    assert body["id"].startswith("cmpl-")
    assert (body["object"], body["model"]) == ("text_completion", "river")
    assert body["choices"] == [
        {
            "index": 0,
            "text": TEXT,
            "logprobs": {
                "tokens": ["Hello", " wörld\u2028"],
                "token_logprobs": [-0.5, -0.5],
                "top_logprobs": [{"?": -2.0}, {"?": -2.0}],
                "text_offset": [0, 5],
            },
            "finish_reason": "stop",
        }
    ]


async def test_headers_say_who_answered_under_which_policy(served: Any) -> None:
    served.front.policy_version = lambda: 9
    body = {"model": "auto", "messages": USER}
    url = served.url + "/v1/chat/completions"
    for stream in (False, True):
        async with served.http.post(url, json={**body, "stream": stream}) as response:
            headers = response.headers
        assert headers["x-spillway-tier"] == "brook"
        assert headers["x-spillway-policy-version"] == "3"
        assert headers["x-request-id"].startswith("req_")
        assert int(headers["openai-processing-ms"]) >= 0
        assert headers["Server"] == "spillway"


async def test_a_cached_answer_says_so_in_standard_headers(served: Any) -> None:
    async def cached(job: Job) -> AsyncIterator[AnswerEvent]:
        yield Started(tier="brook", policy_version=1, cache_status="spillway; hit", age_s=7)
        yield Delta(text="x", finish_reason="stop")
        yield Finished(usage=Usage())

    served.answerer.script = cached
    body = {"model": "auto", "messages": USER}
    async with served.http.post(served.url + "/v1/chat/completions", json=body) as response:
        assert response.headers["Cache-Status"] == "spillway; hit"
        assert response.headers["Age"] == "7"


async def test_the_receipt_comes_only_when_asked_for(served: Any) -> None:
    _, without = await served.chat()
    _, with_it = await served.chat(spillway={"receipt": True})
    assert "spillway" not in without
    assert with_it["spillway"] == {"tier": "brook", "steps": 2}
    told = await events(served, "/v1/chat/completions", messages=USER, spillway={"receipt": True})
    assert [one.get("spillway") for one in told[:-1]][-1] == {"tier": "brook", "steps": 2}
    assert all("spillway" not in one for one in told[:-2])


@pytest.mark.parametrize("n", [1, 3])
async def test_a_chat_stream_has_role_text_one_finish_and_the_end_mark(served: Any, n: int) -> None:
    chunks = await events(served, "/v1/chat/completions", messages=USER, n=n)
    assert chunks.pop() == "[DONE]"
    assert {one["object"] for one in chunks} == {"chat.completion.chunk"}
    assert len({(one["id"], one["created"], one["model"]) for one in chunks}) == 1
    assert all("usage" not in one for one in chunks)
    choices = [one["choices"][0] for one in chunks]
    for index in range(n):
        mine = [one for one in choices if one["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert all("role" not in one["delta"] for one in mine[1:])
        assert "".join(one["delta"].get("content", "") for one in mine) == TEXT
        assert [one["finish_reason"] for one in mine if one["finish_reason"]] == ["stop"]
        assert mine[-1]["finish_reason"] == "stop"


async def test_usage_is_null_until_a_last_chunk_without_choices(served: Any) -> None:
    for path, what in (("chat/completions", {"messages": USER}), ("completions", {"prompt": "a"})):
        options = {"include_usage": True}
        chunks = await events(served, f"/v1/{path}", stream_options=options, **what)
        assert chunks.pop() == "[DONE]"
        last = chunks.pop()
        assert last["choices"] == []
        assert last["usage"]["total_tokens"] == 7
        assert [one["usage"] for one in chunks] == [None] * len(chunks)
        assert all(one["choices"] for one in chunks)


async def test_a_text_stream_counts_offsets_over_chunks(served: Any) -> None:
    chunks = await events(served, "/v1/completions", prompt="a", logprobs=1)
    assert chunks.pop() == "[DONE]"
    choices = [one["choices"][0] for one in chunks]
    assert "".join(one["text"] for one in choices) == TEXT
    told = [one["logprobs"] for one in choices if one["logprobs"]]
    assert [one["text_offset"] for one in told] == [[0], [5]]
    assert [one["finish_reason"] for one in choices if one["finish_reason"]] == ["stop"]


async def test_obfuscated_chunks_differ_in_text_but_not_in_size(served: Any) -> None:
    options = {"include_obfuscation": True}
    body = {"model": "auto", "messages": USER, "stream": True, "stream_options": options}
    async with served.http.post(served.url + "/v1/chat/completions", json=body) as response:
        frames = (await response.read()).split(b"\n\n")[:-2]
    texts = {json.loads(one[6:])["choices"][0]["delta"].get("content") for one in frames}
    assert len(texts) == 4
    assert {(len(one) + 2) % 256 for one in frames} == {0}


async def test_several_prompts_are_one_job_each_with_merged_choices(served: Any) -> None:
    async def echo(job: Job) -> AsyncIterator[AnswerEvent]:
        yield Started(tier="brook" if job.body["prompt"] != "c" else "river", policy_version=1)
        for choice in range(2):
            text = f"{job.body['prompt']}{choice}"
            yield Delta(choice=choice, text=text, finish_reason="stop")
        yield Finished(
            usage=Usage(prompt_tokens=1, completion_tokens=2), receipt={"at": job.body["prompt"]}
        )

    served.answerer.script = echo
    asked = {"prompt": ["a", "b", "c"], "n": 2, "spillway": {"receipt": True}}
    _, body = await served.post("/v1/completions", {"model": "auto", **asked})
    texts = ["a0", "a1", "b0", "b1", "c0", "c1"]
    assert [(one["index"], one["text"]) for one in body["choices"]] == list(enumerate(texts))
    assert body["usage"]["prompt_tokens"] == 3
    assert body["usage"]["completion_tokens"] == 6
    assert body["model"] == "auto"  # two tiers answered
    assert body["spillway"] == {"prompts": [{"at": "a"}, {"at": "b"}, {"at": "c"}]}
    assert len({job.request_id for job in served.answerer.jobs}) == 3
    chunks = await events(served, "/v1/completions", **asked)
    assert chunks.pop() == "[DONE]"
    told = {one["choices"][0]["index"]: one["choices"][0]["text"] for one in chunks[:-1]}
    assert told == dict(enumerate(texts))
    assert served.answerer.open == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_an_echo_stands_before_every_choice_whoever_answers(
    served: Any, stream: bool
) -> None:
    """Any tier can be echoed: it is not even told."""
    asked = {"prompt": ["first: ", "second: "], "n": 2, "echo": True}
    if stream:
        told = [""] * 4
        for one in (await events(served, "/v1/completions", **asked))[:-1]:
            for choice in one["choices"]:
                told[choice["index"]] += choice["text"]
    else:
        _, body = await served.post("/v1/completions", {"model": "auto", **asked})
        told = [one["text"] for one in body["choices"]]
    hello = "Hello wörld\u2028"
    assert told == [prompt + hello for prompt in ("first: ", "first: ", "second: ", "second: ")]
    assert all("echo" not in job.body for job in served.answerer.jobs)


async def test_what_only_the_model_knows_of_a_prompt_it_must_echo_itself(served: Any) -> None:
    for fields in ({"logprobs": 1}, {"prompt": [1, 2]}, {"max_tokens": 0}):
        body = {"model": "river", "prompt": "hi", "echo": True, **fields}
        _, found = await served.post("/v1/completions", body)
        assert served.answerer.jobs[-1].body["echo"] is True
        assert found["choices"][0]["text"] == "Hello wörld\u2028"


async def test_one_failing_prompt_fails_the_request_and_stops_the_others(served: Any) -> None:
    async def second_fails(job: Job) -> AsyncIterator[AnswerEvent]:
        if job.body["prompt"] == "b":
            raise TierUnavailable("brook", "it is down")
        yield Started(tier="brook", policy_version=1)
        while True:
            yield Delta(text="x")

    served.answerer.script = second_fails
    status, body = await served.post("/v1/completions", {"model": "auto", "prompt": ["a", "b"]})
    assert (status, body["error"]["code"]) == (503, "tier_unavailable")
    assert served.answerer.open == 0


async def test_the_job_holds_what_was_sent_and_nothing_about_the_caller(served: Any) -> None:
    message = {"role": "assistant", "content": "a", "refusal": None, "tool_calls": []}
    await served.chat(
        messages=[{**message, "annotations": []}, *USER],
        temperature=0,
        seed=None,
        stop=["a"],
        user="u",
        cache_salt="mine",
        metadata={"k": "v"},
        tools=[],
        response_format={"type": "text"},
        spillway={"receipt": True, "speculation": {"mode": "fixed", "max_nodes": 4}},
    )
    job = served.answerer.jobs[0]
    turns = [{"role": "assistant", "content": "a"}, *USER]
    assert job.body == {"messages": turns, "temperature": 0, "stop": ["a"]}
    assert (job.model, job.endpoint, job.stream, job.want_receipt) == ("auto", "chat", False, True)
    assert job.speculation == {"mode": "fixed", "max_nodes": 4}
    assert job.identity.cache_salt not in ("", "mine")


async def test_headers_become_deadline_and_cache_directives(served: Any) -> None:
    headers = {"x-stainless-read-timeout": "12.5", "Cache-Control": "No-Store, max-age=5"}
    url = served.url + "/v1/chat/completions"
    for stream in (False, True):
        body = {"model": "auto", "messages": USER, "stream": stream}
        async with served.http.post(url, json=body, headers=headers) as response:
            await response.read()
    whole, streamed = served.answerer.jobs
    assert 0 < whole.deadline_s <= 12.5
    assert streamed.deadline_s is None
    assert whole.cache_control == {"no-store", "max-age=5"}


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "x", "1e99", ""])
async def test_a_senseless_deadline_is_none(served: Any, value: str) -> None:
    body = {"model": "auto", "messages": USER}
    headers = {"x-stainless-read-timeout": value}
    async with served.http.post(
        served.url + "/v1/chat/completions", json=body, headers=headers
    ) as response:
        assert response.status == 200
    assert served.answerer.jobs[0].deadline_s is None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (ApiError(429, "full", code="rate_limit_exceeded", headers={"retry-after": "2"}), 429, "2"),
        (TierUnavailable("river", "dead", retry_after_s=3.4), 503, "3"),
        (TierBroken("too early"), 502, None),
        (RuntimeError("secret /etc/passwd 0x7f"), 500, None),
    ],
)
async def test_what_fails_before_the_answer_begins_keeps_its_status(
    served: Any, stream: bool, error: Exception, status: int, retry: str | None
) -> None:
    async def fail(job: Job) -> AsyncIterator[AnswerEvent]:
        raise error
        yield

    served.answerer.script = fail
    body = {"model": "auto", "messages": USER, "stream": stream}
    async with served.http.post(served.url + "/v1/chat/completions", json=body) as response:
        told = await response.text()
        assert response.status == status
        assert response.headers.get("retry-after") == retry
    assert json.loads(told)["error"]["message"]
    assert "secret" not in told
    assert "0x" not in told


@pytest.mark.parametrize("error", [TierBroken("gone"), RuntimeError("secret")])
async def test_what_fails_after_the_200_is_told_in_band_without_an_end_mark(
    served: Any, error: Exception
) -> None:
    async def break_off(job: Job) -> AsyncIterator[AnswerEvent]:
        yield Started(tier="brook", policy_version=1)
        yield Delta(text="Hel")
        raise error

    served.answerer.script = break_off
    chunks = await events(served, "/v1/chat/completions", messages=USER)
    assert chunks[1]["choices"][0]["delta"]["content"] == "Hel"
    assert chunks[-1]["error"]["type"] == "server_error"
    assert "[DONE]" not in chunks
    assert "secret" not in json.dumps(chunks)
    status, _ = await served.chat()
    assert status in (500, 502)
    assert served.answerer.open == 0


async def test_an_answer_that_stops_without_its_last_event_is_no_answer(served: Any) -> None:
    async def stop_early(job: Job) -> AsyncIterator[AnswerEvent]:
        yield Started(tier="brook", policy_version=1)
        yield Delta(text="Hel")

    served.answerer.script = stop_early
    chunks = await events(served, "/v1/chat/completions", messages=USER)
    assert "error" in chunks[-1]
    assert (await served.chat())[0] == 502


async def test_a_request_not_to_be_stored_shares_its_salt_with_no_other(served: Any) -> None:
    for header in ({}, {}, {"Cache-Control": "no-store"}, {"Cache-Control": "No-Store"}):
        body = {"model": "auto", "messages": USER}
        await served.post("/v1/chat/completions", body, headers=header)
    salts = [job.identity.cache_salt for job in served.answerer.jobs]
    assert salts[0] == salts[1]
    assert len({*salts}) == 3
    assert {job.identity.tenant for job in served.answerer.jobs} == {"default"}
