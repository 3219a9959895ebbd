"""Numbers about an answer: what log-probs and text say, and what is unknown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_model.classifier import Reading
from router_model.evidence import (
    ANSWER_NAMES,
    LOGPROB_NAMES,
    AnswerEvidence,
    answer_numbers,
    confidence_numbers,
    logprobs_of,
    margins_of,
)

READING = Reading({"brook": 0.4, "river": 0.9}, 10.0, np.zeros(3), frozenset({"apple", "stone"}))


def evidence(answer: str = "apple", **more: object) -> AnswerEvidence:
    return AnswerEvidence(tier="brook", reading=READING, answer=answer, **more)  # type: ignore[arg-type]


def confidence(name: str, *logprobs: float) -> float:
    return float(confidence_numbers(evidence(logprobs=logprobs))[LOGPROB_NAMES.index(name)])


def text(name: str, answer: str, **more: object) -> float:
    return float(answer_numbers(evidence(answer, **more))[ANSWER_NAMES.index(name)])


def test_log_probs_are_summed_up() -> None:
    logprobs = (-0.01, -2.0, -0.2, -0.05)
    assert confidence("logprob_min", *logprobs) == -2.0
    assert confidence("logprob_second_min", *logprobs) == -0.2
    assert confidence("logprob_first", *logprobs) == -0.01
    assert confidence("logprob_sum", *logprobs) == pytest.approx(-2.26)
    assert confidence("below_0.1", *logprobs) == 2
    assert confidence("below_0.5", *logprobs) == 1
    assert confidence("min_place", *logprobs) == 0.25


def test_one_doubtful_token_counts_the_same_however_long_the_answer() -> None:
    short, long = (-1.5, *[-0.01] * 5), (-1.5, *[-0.01] * 200)
    for name in ("logprob_min", "below_0.5"):
        assert confidence(name, *short) == confidence(name, *long)


def test_minus_infinity_is_read_as_very_unlikely() -> None:
    assert np.isfinite(confidence_numbers(evidence(logprobs=(-np.inf, -0.1)))).all()


@settings(deadline=None)
@given(st.text(max_size=80), st.lists(st.floats(-1e3, 0), max_size=9))
def test_numbers_are_finite_whatever_the_answer(answer: str, logprobs: list[float]) -> None:
    given_ = evidence(answer, logprobs=tuple(logprobs), margins=tuple(-x for x in logprobs))
    found = np.concatenate([answer_numbers(given_), confidence_numbers(given_)])
    assert found.shape == (len(ANSWER_NAMES) + len(LOGPROB_NAMES),)
    assert np.isfinite(found).all()


def test_text_is_compared_with_the_question() -> None:
    assert text("words_from_request", "Apple pear") == 0.5
    assert text("request_words_used", "apple pear") == 0.5
    assert text("longest_repeat", "a a a b b") == 2
    assert text("bracket_balance", '{"a": [1, 2}') == 1
    assert text("chance", "") == 0.4


def test_an_answer_cut_off_at_its_limit_looks_so() -> None:
    assert text("stopped", "a", finish_reason="length") == -1
    assert text("stopped", "a", finish_reason="stop") == 1
    assert text("stopped", "a") == 0


def test_openai_entries_give_log_probs_and_margins() -> None:
    entries = [
        {"token": "a", "logprob": -0.1, "top_logprobs": [{"logprob": -0.1}, {"logprob": -2.1}]},
        {"token": "b", "logprob": -1.0, "top_logprobs": [{"logprob": -0.6}, {"logprob": -1.0}]},
    ]
    assert logprobs_of(entries) == (-0.1, -1.0)
    assert margins_of(entries) == pytest.approx((2.0, 0.4))


def test_a_margin_is_unknown_unless_two_rivals_are_named() -> None:
    entries = [{"logprob": -0.1, "top_logprobs": [{"logprob": -0.1}]}]
    assert margins_of(entries) is None
    assert margins_of(None) is None


@pytest.mark.parametrize(
    "entries",
    [
        None,
        [],
        [{}],
        [{"logprob": None}],
        [{"logprob": "x"}],
        [{"logprob": float("nan")}],
        [{"logprob": True}],
    ],
)
def test_entries_without_numbers_are_no_log_probs(entries) -> None:  # type: ignore[no-untyped-def]
    assert logprobs_of(entries) is None
