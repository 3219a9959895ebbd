"""What an answer is counted on to bring yet follows the lengths of answers before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafting.lengths import LONGEST, Lengths


def after(*lengths, times=100):
    known = Lengths()
    for _ in range(times):
        for length in lengths:
            known.note(length)
    return known


def test_before_any_evidence_what_went_on_goes_on_for_a_while():
    known = Lengths()
    assert known.left(1) == 1
    assert known.left(100) > known.left(20) > known.left(4) > 1


def test_answers_that_were_long_are_counted_on():
    assert after(100).left(1) > 90
    assert after(100).left(40) > 50


def test_where_some_end_at_once_nothing_is_counted_on_before_that():
    mixed = after(2, 2, 2, 40, 40, 40, 40)
    assert mixed.left(1) == 1
    assert mixed.left(2) > 30


def test_a_predicted_length_tells_more_than_other_answers_do():
    assert after(2).left(1, predicted=100) > 30
    assert after(100).left(1, predicted=2) <= 2


@pytest.mark.parametrize("predicted", [None, 0, 1, 10, 10**9])
@given(lengths=st.lists(st.integers(0, 2000), max_size=20), emitted=st.integers(0, 3000))
def test_one_token_at_least_and_never_beyond_the_horizon(predicted, lengths, emitted):
    known = after(*lengths, times=1)
    assert 1 <= known.left(emitted, predicted) <= LONGEST


def test_what_was_long_ago_is_forgotten():
    known = after(100)
    for _ in range(500):
        known.note(3)
    assert known.left(1) <= 3
