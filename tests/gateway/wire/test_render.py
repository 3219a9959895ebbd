"""What is written can be read by any line-splitting, strict JSON reader."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.generation import Delta, Usage
from gateway.wire.render import (
    DONE,
    HEARTBEAT,
    Chunks,
    dump,
    event,
    gather,
    new_head,
    padded_event,
    sum_usage,
    whole_body,
)


@given(st.text())
def test_an_event_is_one_line_whatever_it_says(text: str) -> None:
    frame = event({"text": text})
    assert frame.endswith(b"\n\n")
    assert len(frame.decode().splitlines()) == 2
    assert json.loads(frame[6:])["text"] == text


@given(st.text(max_size=300))
def test_a_padded_event_is_a_whole_number_of_blocks(text: str) -> None:
    frame = padded_event({"text": text})
    assert len(frame) % 256 == 0
    assert json.loads(frame[6:])["text"] == text


def test_no_number_that_is_not_json_is_ever_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        dump({"logprob": float("-inf")})


def test_comments_and_end_mark_are_what_clients_skip_and_stop_at() -> None:
    assert HEARTBEAT.startswith(b":")
    assert DONE == b"data: [DONE]\n\n"


def test_a_repeated_finish_is_dropped() -> None:
    chunks = Chunks(new_head("chat", "m"))
    assert len(chunks.more(Delta(text="a", finish_reason="stop"))) == 2
    assert chunks.more(Delta(finish_reason="length")) == []
    assert chunks.more(Delta(text="late")) == []
    assert chunks.more(Delta(choice=1, text="b")) != []


def test_deltas_of_choices_in_any_order_are_gathered_by_index() -> None:
    deltas = [
        Delta(choice=1, text="b"),
        Delta(choice=0, text="a", logprobs=({"token": "a", "logprob": -1},)),
        Delta(choice=1, text="b", finish_reason="length"),
        Delta(choice=0, logprobs=({"token": "c", "logprob": -2},), finish_reason="stop"),
    ]
    body = whole_body(new_head("chat", "m"), gather(deltas, 2), Usage())
    first, second = body["choices"]
    assert first["message"]["content"] == "a"
    assert [one["token"] for one in first["logprobs"]["content"]] == ["a", "c"]
    assert (second["message"]["content"], second["finish_reason"]) == ("bb", "length")


def test_usage_adds_up() -> None:
    one = Usage(prompt_tokens=1, completion_tokens=2, cached_tokens=3, accepted_prediction_tokens=4)
    total = sum_usage([one, one])
    assert (total.prompt_tokens, total.cached_tokens) == (2, 6)
    assert total.accepted_prediction_tokens == 8


def test_ids_never_repeat() -> None:
    assert len({new_head("chat", "m").id for _ in range(1000)}) == 1000
