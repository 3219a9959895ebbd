"""Deltas become one answer, however they were cut, and never an endless one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.cascade.answer import Answer, Gathering
from gateway.generation import Delta, Usage


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=4)), max_size=30))
def test_every_choice_gets_its_pieces_in_order(pieces: list[tuple[int, str]]) -> None:
    gathering = Gathering(3)
    for choice, text in pieces:
        gathering.add(Delta(choice=choice, text=text))
    for index, choice in enumerate(gathering.choices()):
        assert choice.text == "".join(text for at, text in pieces if at == index)
        assert choice.logprobs is None


def test_an_answer_taken_apart_and_put_together_is_the_same() -> None:
    gathering = Gathering(2)
    entry = {"token": "a", "logprob": -1.0}
    gathering.add(Delta(choice=1, text="a", logprobs=(entry,)))
    gathering.add(Delta(choice=1, logprobs=(entry,), finish_reason="length"))
    gathering.add(Delta(choice=0, finish_reason="stop"))
    answer = Answer(tier="t", choices=gathering.choices(), usage=Usage())
    again = Gathering(2)
    for delta in answer.deltas():
        again.add(delta)
    assert again.choices() == answer.choices
    assert answer.choices[1].logprobs == (entry, entry)
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "length"]


def test_what_passes_the_bound_or_names_no_choice_is_dropped_and_said() -> None:
    gathering = Gathering(1, max_chars=5)
    gathering.add(Delta(text="12345"))
    assert not gathering.overfull
    gathering.add(Delta(text="6"))
    assert gathering.overfull
    assert gathering.choices()[0].text == "12345"
    stranger = Gathering(1)
    stranger.add(Delta(choice=1, text="x"))
    assert stranger.overfull
