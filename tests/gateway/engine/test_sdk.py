"""The official client against the engine itself: plain, streamed, log-probs, choices, errors."""

from __future__ import annotations

from typing import Any

import openai
import pytest

MESSAGES: Any = [{"role": "user", "content": "the quick brown fox"}]


async def test_a_plain_answer_is_parsed(sdk: openai.AsyncOpenAI) -> None:
    found = await sdk.chat.completions.create(model="large", messages=MESSAGES, max_tokens=5)
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].finish_reason in ("stop", "length")
    assert found.usage is not None
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found._request_id


async def test_a_stream_ends_with_usage(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="large",
        messages=MESSAGES,
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    reasons = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert reasons == ["length"]


async def test_logprobs_and_choices_are_parsed(sdk: openai.AsyncOpenAI) -> None:
    found = await sdk.chat.completions.create(
        model="large",
        messages=MESSAGES,
        max_tokens=4,
        n=2,
        logprobs=True,
        top_logprobs=2,
        extra_body={"ignore_eos": True},
    )
    assert [choice.index for choice in found.choices] == [0, 1]
    for choice in found.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert len(choice.logprobs.content[0].top_logprobs) == 2


async def test_a_text_completion_is_parsed(sdk: openai.AsyncOpenAI) -> None:
    found = await sdk.completions.create(
        model="large", prompt="the quick", logprobs=2, extra_body={"ignore_eos": True}
    )
    assert found.usage is not None
    assert found.usage.completion_tokens == 16
    assert found.choices[0].logprobs is not None
    assert len(found.choices[0].logprobs.tokens or []) == 16


async def test_models_are_listed_and_retrieved(sdk: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in sdk.models.list()] == ["large", "small"]
    assert (await sdk.models.retrieve("large")).owned_by == "spillway"


async def test_refusals_are_typed_exceptions(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await sdk.chat.completions.create(model="nosuch", messages=MESSAGES)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as overflow:
        await sdk.chat.completions.create(model="large", messages=MESSAGES, max_tokens=10_000)
    assert overflow.value.code == "context_length_exceeded"
