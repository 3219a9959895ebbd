"""Prompts with known answers: what is read, what is refused, what counts as right."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.tiers.graded import CollectError, parse_prompt, read_prompts


@pytest.mark.parametrize(
    ("answer", "right"), [("4", True), (" 4\n", True), ("four", False), ("4 4", False), ("", False)]
)
def test_an_expected_answer_must_match_but_for_blanks_around_it(answer: str, right: bool) -> None:
    prompt = parse_prompt({"prompt": "2 + 2?", "expected": "4"}, "here")
    assert prompt.grade(answer) is right


def test_a_pattern_must_match_the_whole_answer() -> None:
    prompt = parse_prompt({"prompt": "2 + 2?", "pattern": r"(It is )?(4|four)\.?"}, "here")
    assert prompt.grade("It is four.")
    assert not prompt.grade("It is four, I think")


def test_a_prompt_without_a_split_always_falls_into_the_same_one() -> None:
    record = {"prompt": "2 + 2?", "expected": "4"}
    assert parse_prompt(record, "a").split == parse_prompt(record, "b").split
    assert parse_prompt(record | {"split": "test"}, "a").split == "test"


def test_messages_are_kept_as_they_are() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert parse_prompt({"messages": messages, "expected": "Hi"}, "x").request == tuple(messages)


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"expected": "4"}, "prompt and messages"),
        ({"prompt": "x", "messages": [], "expected": "4"}, "prompt and messages"),
        ({"prompt": "x"}, "expected and pattern"),
        ({"prompt": "x", "expected": "4", "pattern": "4"}, "expected and pattern"),
        ({"prompt": "x", "answer": "4"}, "answer: unknown key"),
        ({"prompt": "x", "expected": "4", "split": "train"}, "split: got 'train'"),
        (["x"], "got list"),
    ],
)
def test_a_bad_record_is_refused_by_name(record: Any, named: str) -> None:
    with pytest.raises(CollectError, match=named):
        parse_prompt(record, "here")


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": "x", "pattern": "("}'])
def test_a_bad_line_is_named(line: str) -> None:
    good = json.dumps({"prompt": "x", "expected": "y"})
    with pytest.raises(CollectError, match="file:3"):
        read_prompts([good, "", line], "file")
