"""The format of recorded outcomes: what is kept, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_model.errors import OutcomeError
from router_model.outcomes import (
    SPLITS,
    Outcome,
    digest_of,
    format_outcome,
    parse_outcome,
    parse_outcomes,
    read_outcomes,
    split_of,
)

GOOD: dict[str, Any] = {
    "split": "test",
    "tier": "brook",
    "answer": "4",
    "correct": True,
    "prompt": "2 + 2?",
}

numbers = st.lists(st.floats(-30, 0).map(lambda x: round(x, 3)), min_size=1, max_size=5)


@given(
    answer=st.text(st.characters(codec="utf-8")),
    correct=st.booleans(),
    split=st.sampled_from(SPLITS),
    logprobs=st.none() | numbers.map(tuple),
    latency_ms=st.none() | st.floats(0, 1e6),
)
def test_an_outcome_survives_its_line(**values: Any) -> None:
    outcome = Outcome(tier="brook", prompt="2 + 2?", tokens=3, **values)
    assert parse_outcome(format_outcome(outcome)) == outcome


def test_messages_survive_too() -> None:
    messages = ({"role": "user", "content": "2 + 2?"},)
    outcome = Outcome(split="test", tier="a", answer="", correct=False, messages=messages)
    assert parse_outcome(format_outcome(outcome)).request == messages


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"split": "train"}, "split"),
        ({"correct": 1}, "correct"),
        ({"correct": None}, "correct"),
        ({"tier": 3}, "tier"),
        ({"logprobs": [0.0, "x"]}, "logprobs"),
        ({"logprobs": -1.0}, "logprobs"),
        ({"tokens": -1}, "tokens"),
        ({"tokens": True}, "tokens"),
        ({"latency_ms": -0.5}, "latency_ms"),
        ({"messages": [{"role": "user", "content": "x"}]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"messages": ["x"], "prompt": None}, "messages"),
        ({"score": 1}, "score"),
    ],
)
def test_a_bad_field_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(OutcomeError, match=named):
        parse_outcome(json.dumps(GOOD | change))


@pytest.mark.parametrize("line", ["[]", "{", '{"split": "test"}', "null", "[" * 100_000])
def test_a_line_that_is_no_outcome_is_refused(line: str) -> None:
    with pytest.raises(OutcomeError):
        parse_outcome(line)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_refused(constant: str) -> None:
    line = json.dumps(GOOD)[:-1] + f', "latency_ms": {constant}}}'
    with pytest.raises(OutcomeError, match=constant):
        parse_outcome(line)


def test_an_error_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + "{}\n")
    with pytest.raises(OutcomeError, match=r"outcomes\.jsonl:3"):
        read_outcomes(path)


def test_blank_lines_are_skipped() -> None:
    assert len(list(parse_outcomes(["", json.dumps(GOOD), "  \n"]))) == 1


def test_a_digest_depends_on_the_prompt_alone() -> None:
    assert digest_of("2 + 2?") == 0x485A0CD90586969E
    one = Outcome(**GOOD)
    other = Outcome(**GOOD | {"tier": "river", "answer": "5", "correct": False})
    assert one.digest == other.digest != digest_of("2 + 3?")


def test_prompts_without_a_split_are_shared_out_for_good() -> None:
    splits = [split_of(f"prompt {number}") for number in range(2000)]
    assert splits == [split_of(f"prompt {number}") for number in range(2000)]
    shares = {split: splits.count(split) / 2000 for split in SPLITS}
    assert shares["router-train"] == pytest.approx(0.5, abs=0.05)
    assert shares["thresholds"] == pytest.approx(0.25, abs=0.05)
