"""The official `openai` client works unchanged, and raises its own typed errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from gateway.errors import ApiError, TierBroken, TierUnavailable
from gateway.faces.admission import Admission
from gateway.generation import AnswerEvent, Delta, Identity, Job, Started
from gateway.keys import Key, Keys, key_digest

USER: Any = [{"role": "user", "content": "hi"}]
TEXT = "Hello wörld\u2028"


async def test_plain_chat_and_text(served: Any) -> None:
    client = served.openai()
    chat = await client.chat.completions.create(
        model="auto", messages=USER, n=2, logprobs=True, top_logprobs=1, temperature=0
    )
    assert [one.message.content for one in chat.choices] == [TEXT, TEXT]
    assert chat.choices[0].logprobs.content[0].top_logprobs[0].token == "?"
    assert chat.usage.total_tokens == 9
    assert chat._request_id.startswith("req_")
    text = await client.completions.create(model="brook", prompt="hi", logprobs=1)
    assert text.choices[0].text == TEXT
    assert text.choices[0].logprobs.text_offset == [0, 5]


async def test_an_answer_can_be_passed_back_as_it_came(served: Any) -> None:
    client = served.openai()
    first = await client.chat.completions.create(model="auto", messages=USER)
    message = first.choices[0].message
    again = await client.chat.completions.create(model="auto", messages=[*USER, message, *USER])
    assert again.choices[0].message.content == TEXT
    assert served.answerer.jobs[1].body["messages"][1] == {"role": "assistant", "content": TEXT}


async def test_streamed_chat_and_text(served: Any) -> None:
    client = served.openai()
    options = {"include_usage": True}
    stream = await client.chat.completions.create(
        model="auto", messages=USER, stream=True, stream_options=options
    )
    chunks = [chunk async for chunk in stream]
    pieces = [one.choices[0].delta.content or "" for one in chunks if one.choices]
    assert "".join(pieces) == TEXT
    assert chunks[-1].usage.completion_tokens == 2
    stream = await client.completions.create(model="auto", prompt="hi", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == TEXT


async def test_the_clients_own_stream_accumulator_agrees(served: Any) -> None:
    async with served.openai().chat.completions.stream(model="auto", messages=USER) as stream:
        whole = await stream.get_final_completion()
    assert whole.choices[0].message.content == TEXT
    assert whole.choices[0].finish_reason == "stop"


async def test_models_are_listed_and_found(served: Any) -> None:
    client = served.openai()
    assert [one.id async for one in client.models.list()] == ["auto", "brook", "river"]
    assert (await client.models.retrieve("river")).owned_by == "spillway"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("lake")
    assert caught.value.code == "model_not_found"


async def test_the_receipt_reaches_the_client_as_an_extra_field(served: Any) -> None:
    answer = await served.openai().chat.completions.create(
        model="auto", messages=USER, extra_body={"spillway": {"receipt": True}}
    )
    assert answer.spillway["steps"] == 2


async def test_a_bad_parameter_is_a_bad_request_error_that_names_it(served: Any) -> None:
    client = served.openai()
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="auto", messages=USER, temperature=3)
    assert caught.value.param == "temperature"
    assert caught.value.code == "above_max_value"
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="lake", messages=USER)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")


async def test_keys_raise_authentication_and_permission_errors(start: Any) -> None:
    me = Identity(tenant="t", allowed_models=frozenset({"brook"}))
    async with start(keys=Keys([Key(key_digest("sk-right"), me)])) as served:
        with pytest.raises(openai.AuthenticationError) as caught:
            await served.openai(api_key="sk-wrong").models.list()
        assert caught.value.code == "invalid_api_key"
        client = served.openai(api_key="sk-right")
        assert [one.id async for one in client.models.list()] == ["brook"]
        await client.chat.completions.create(model="brook", messages=USER)
        for model in ("river", "auto"):
            with pytest.raises(openai.PermissionDeniedError):
                await client.chat.completions.create(model=model, messages=USER)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ApiError(429, "full", code="rate_limit_exceeded"), openai.RateLimitError),
        (ApiError(422, "no"), openai.UnprocessableEntityError),
        (TierUnavailable("river", "dead"), openai.InternalServerError),
        (ValueError("bug"), openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_other_refusals_are_typed_too(
    served: Any, error: Exception, raised: type[Exception], stream: bool
) -> None:
    async def fail(job: Job) -> AsyncIterator[AnswerEvent]:
        raise error
        yield

    served.answerer.script = fail
    with pytest.raises(raised):
        await served.openai().chat.completions.create(model="auto", messages=USER, stream=stream)


async def test_a_full_server_is_a_rate_limit_error_that_a_retry_survives(start: Any) -> None:
    async with start(admission=Admission(1, 0)) as served:
        async with served.front.admission.place():
            with pytest.raises(openai.RateLimitError) as caught:
                await served.openai().chat.completions.create(model="auto", messages=USER)
            assert caught.value.response.headers["retry-after"] == "1"
        answer = await served.openai().chat.completions.create(model="auto", messages=USER)
        assert answer.choices[0].message.content == TEXT


async def test_a_truncated_stream_raises_instead_of_ending(served: Any) -> None:
    async def break_off(job: Job) -> AsyncIterator[AnswerEvent]:
        yield Started(tier="brook", policy_version=1)
        yield Delta(text="Hel")
        raise TierBroken("gone")

    served.answerer.script = break_off
    stream = await served.openai().chat.completions.create(model="auto", messages=USER, stream=True)
    assert [(await anext(stream)).choices[0].delta.content for _ in range(2)] == ["", "Hel"]
    with pytest.raises(openai.APIError):
        await anext(stream)
