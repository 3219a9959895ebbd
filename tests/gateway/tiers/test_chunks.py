"""Chunks as this and other servers write them, and as none should."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import TierBroken
from gateway.generation import Usage
from gateway.tiers.chunks import Progress, StreamError, read_usage


def _read(progress: Progress, **chunk: Any) -> list[Any]:
    return list(progress.read(json.dumps(chunk)))


def test_text_logprobs_and_the_end_of_a_choice_are_read() -> None:
    progress = Progress("chat", 1)
    entry = {"token": "a", "logprob": -0.1}
    first = _read(
        progress,
        system_fingerprint="fp",
        choices=[{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [entry]}}],
    )
    assert [(one.text, one.logprobs) for one in first] == [("a", (entry,))]
    assert not progress.complete
    _read(progress, choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    assert progress.complete
    assert _read(progress, choices=[{"index": 0, "delta": {"content": "late"}}]) == []
    assert progress.done().fingerprint == "fp"


def test_a_role_alone_is_no_delta_so_another_tier_may_still_answer() -> None:
    progress = Progress("chat", 1)
    opening = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    assert _read(progress, choices=[opening]) == []


def test_legacy_logprobs_become_entries() -> None:
    progress = Progress("completions", 1)
    logprobs = {
        "tokens": ["é", "b"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{"é": -0.5, "x": -2.0}, None],
        "text_offset": [0, 1],
    }
    [delta] = _read(progress, choices=[{"index": 0, "text": "éb", "logprobs": logprobs}])
    assert delta.logprobs is not None
    assert [one["logprob"] for one in delta.logprobs] == [-0.5, -1.0]
    assert delta.logprobs[0]["bytes"] == list("é".encode())
    assert [rival["token"] for rival in delta.logprobs[0]["top_logprobs"]] == ["é", "x"]


def test_without_usage_chunks_with_text_are_counted() -> None:
    progress = Progress("chat", 2)
    for index in (0, 1, 0):
        _read(progress, choices=[{"index": index, "delta": {"content": "x"}}])
    assert progress.done().usage == Usage(completion_tokens=3)


def test_usage_is_read_with_or_without_details() -> None:
    assert read_usage({"prompt_tokens": 3, "completion_tokens": 4}) == Usage(
        prompt_tokens=3, completion_tokens=4
    )
    full = {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"accepted_prediction_tokens": 1},
    }
    assert read_usage(full) == Usage(
        prompt_tokens=3, completion_tokens=4, cached_tokens=2, accepted_prediction_tokens=1
    )
    nonsense = {"prompt_tokens": "3", "prompt_tokens_details": None, "completion_tokens": -1}
    assert read_usage(nonsense) == Usage()


@pytest.mark.parametrize("error", [{"message": "boom", "code": 1}, "boom"])
def test_an_error_in_the_stream_is_raised(error: Any) -> None:
    with pytest.raises(StreamError, match="boom"):
        _read(Progress("chat", 1), error=error)


def test_a_choice_nobody_asked_for_is_refused() -> None:
    with pytest.raises(TierBroken, match="choice 7 of 2"):
        _read(Progress("chat", 2), choices=[{"index": 7, "delta": {"content": "x"}}])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "content",
                    "logprobs",
                    "tokens",
                    "index",
                    "usage",
                    "text",
                    "error",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON, st.sampled_from(["chat", "completions"]))
def test_no_chunk_whatever_its_shape_raises_anything_else(chunk: Any, endpoint: Any) -> None:
    with contextlib.suppress(TierBroken, StreamError):
        list(Progress(endpoint, 1).read(json.dumps(chunk)))


@pytest.mark.parametrize("payload", ["", "{", "[1]", "nonsense", "[" * 100_000])
def test_what_is_no_object_is_refused(payload: str) -> None:
    with pytest.raises(TierBroken):
        list(Progress("chat", 1).read(payload))


def test_infinite_logprobs_become_openai_s_value_and_nan_is_refused() -> None:
    chunk = '{"choices": [{"delta": {"content": "x"}, "logprobs": {"content": [{"logprob": %s}]}}]}'
    [delta] = Progress("chat", 1).read(chunk % "-Infinity")
    assert delta.logprobs == ({"logprob": -9999.0},)
    with pytest.raises(TierBroken):
        list(Progress("chat", 1).read(chunk % "NaN"))
