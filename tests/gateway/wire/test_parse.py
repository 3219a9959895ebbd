"""Any bytes become a request or a 400, quickly; what is valid keeps its values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.wire.chat import ChatRequest
from gateway.wire.completion import CompletionRequest
from gateway.wire.fields import EngineSpillwayOptions
from gateway.wire.parse import (
    MAX_KEYS,
    MAX_OBJECTS,
    OFF_LOOP_BYTES,
    off_loop,
    parse_chat,
    parse_completion,
)

USER = [{"role": "user", "content": "hi"}]
FIELDS = sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields})

KEYS = ["type", "text", "content", "role", "mode", "5", "x"]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
flat = scalars | st.lists(scalars, max_size=3)
values = flat | st.dictionaries(st.sampled_from(KEYS), flat, max_size=3)


def outcome(parse: Any, raw: bytes) -> ApiError | None:
    try:
        parse(raw)
    except ApiError as error:
        return error
    return None


def refused(parse: Any, raw: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(raw)
    return caught.value


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_with_400(raw: bytes) -> None:
    assert refused(parse_chat, raw).status == 400
    assert refused(parse_completion, raw).status == 400


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), values, max_size=4))
def test_random_fields_are_taken_or_refused_by_name(fields: dict[str, Any]) -> None:
    for parse, base in ((parse_chat, {"messages": USER}), (parse_completion, {"prompt": "a"})):
        raw = json.dumps({"model": "auto", **base, **fields}).encode()
        error = outcome(parse, raw)
        assert error is None or (error.status == 400 and len(error.message) < 700)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FIELDS), values)
def test_a_lone_bad_field_is_the_one_that_is_named(field: str, value: Any) -> None:
    base: dict[str, Any] = {"model": "auto", "messages": USER}
    if field in base or (isinstance(value, float) and value != value):
        return
    error = outcome(parse_chat, json.dumps({**base, field: value}).encode())
    assert error is None or error.param is None or error.param.startswith(field)


def test_null_is_the_same_as_nothing_for_every_optional_field() -> None:
    optional = [name for name in ChatRequest.model_fields if name not in ("model", "messages")]
    body = {"model": "auto", "messages": USER, **dict.fromkeys(optional)}
    wanted = parse_chat(json.dumps(body).encode())
    assert wanted.model_dump(exclude_none=True) == {"model": "auto", "messages": USER}
    optional = [name for name in CompletionRequest.model_fields if name not in ("model", "prompt")]
    parse_completion(json.dumps({"model": "m", "prompt": "", **dict.fromkeys(optional)}).encode())


def test_everything_documented_is_taken_at_its_bounds() -> None:
    extras = {
        "n": 128, "temperature": 2, "top_p": 1, "presence_penalty": -2, "frequency_penalty": 2.0,
        "logprobs": True, "top_logprobs": 20, "stop": ["a", "b", "c", "d"], "seed": -(2**63),
        "logit_bias": {str(at): -100 for at in range(300)}, "max_completion_tokens": 1,
        "metadata": {"k" * 64: "v" * 512}, "stream": True, "service_tier": "flex",
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "prediction": {"type": "content", "content": [{"type": "text", "text": "x"}]},
        "top_k": -1, "min_p": 1, "repetition_penalty": 1.5, "min_tokens": 0, "ignore_eos": True,
        "stop_token_ids": [0, 5], "tools": [], "tool_choice": "none", "modalities": ["text"],
        "response_format": {"type": "text"}, "store": False, "user": "u",
        "spillway": {"receipt": True, "speculation": {"mode": "auto", "sources": ["a"]}},
    }  # fmt: skip
    wanted = parse_chat(json.dumps({"model": "auto", "messages": USER, **extras}).encode())
    assert wanted.seed == -(2**63)
    assert wanted.logit_bias is not None
    assert len(wanted.logit_bias) == 300


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])],
)
def test_the_four_forms_of_a_prompt_become_one(prompt: Any, prompts: Any) -> None:
    raw = json.dumps({"model": "m", "prompt": prompt}).encode()
    assert parse_completion(raw).prompts() == prompts


def test_drafts_are_for_engines_only() -> None:
    drafts = [{"kind": "rejected_answer", "text": "x"}]
    raw = json.dumps({"model": "m", "messages": USER, "spillway": {"drafts": drafts}}).encode()
    options = parse_chat(raw, "engine").spillway
    assert isinstance(options, EngineSpillwayOptions)
    assert options.drafts is not None
    assert options.drafts[0].text == "x"
    assert refused(parse_chat, raw).param == "spillway.drafts"


def test_bodies_of_very_many_keys_or_objects_are_refused_before_they_are_validated() -> None:
    keys = {f"k{at}": 1 for at in range(MAX_KEYS + 1)}
    assert "keys" in refused(parse_chat, json.dumps(keys).encode()).message
    objects = {"model": "m", "messages": USER * (MAX_OBJECTS + 1)}
    assert "objects" in refused(parse_chat, json.dumps(objects).encode()).message


def test_a_message_says_what_it_got_but_never_repeats_it() -> None:
    secret = "sk-very-secret"
    body = {"model": "m", "messages": [{"role": secret, "content": secret}], "stop": secret * 50}
    assert secret not in refused(parse_chat, json.dumps(body).encode()).message


async def test_large_bodies_give_the_same_result_off_the_loop() -> None:
    content = "x" * (OFF_LOOP_BYTES + 1)
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
    wanted = await off_loop(parse_chat, raw)
    assert wanted == parse_chat(raw)
    with pytest.raises(ApiError):
        await off_loop(parse_chat, raw[:-1])
