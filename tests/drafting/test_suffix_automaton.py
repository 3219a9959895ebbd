"""The automaton knows every substring, as brute force does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drafting.suffix_automaton import START, SuffixAutomaton

texts = st.lists(st.integers(0, 3), max_size=60)


def holds(text, part):
    return any(text[i : i + len(part)] == part for i in range(len(text) - len(part) + 1))


def longest_repeated_suffix(text):
    for length in range(len(text) - 1, 0, -1):
        ends = [i + length for i in range(len(text) - length)]
        if any(text[end - length : end] == text[len(text) - length :] for end in ends):
            return length
    return 0


@given(texts)
def test_the_link_of_the_whole_text_is_its_longest_repeated_suffix(text):
    automaton = SuffixAutomaton(text)
    if text:
        assert automaton.length[automaton.link[automaton.last]] == longest_repeated_suffix(text)


@given(texts)
def test_a_recorded_end_is_that_of_an_earlier_occurrence(text):
    automaton = SuffixAutomaton(text)
    state = automaton.link[automaton.last] if text else START
    while state > START:
        length, end = automaton.length[state], automaton.last_end[state]
        assert end < len(text) - 1
        assert text[end - length + 1 : end + 1] == text[len(text) - length :]
        state = automaton.link[state]


@given(texts, texts)
def test_stepping_finds_the_longest_suffix_the_text_holds(text, other):
    automaton = SuffixAutomaton(text)
    state, length = START, 0
    for read, token in enumerate(other, start=1):
        state, length = automaton.step(state, length, token)
        suffixes = (other[read - size : read] for size in range(read, 0, -1))
        assert length == next((len(s) for s in suffixes if holds(text, s)), 0)


@given(texts)
def test_states_stay_within_twice_the_text(text):
    assert len(SuffixAutomaton(text).link) <= max(2 * len(text), 1) + 1


@given(texts, texts)
def test_growing_equals_building_at_once(first, second):
    grown = SuffixAutomaton(first)
    for token in second:
        grown.append(token)
    whole = SuffixAutomaton(first + second)
    assert grown.follow == whole.follow
    assert grown.last_end == whole.last_end
