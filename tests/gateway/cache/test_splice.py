"""Two tellings of one answer make one answer, or none at all."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.splice import Differs, Splice
from gateway.generation import AnswerEvent, Delta, Finished, Started, Usage

DONE = Finished(usage=Usage(completion_tokens=3))


def telling(
    text: str, cuts: list[int], *, tier: str = "river", end: str = "stop"
) -> list[AnswerEvent]:
    """An answer cut into deltas of one character's log-prob a character."""
    bounds = [0, *sorted({min(cut, len(text)) for cut in cuts}), len(text)]
    pieces = [text[one:other] for one, other in pairwise(bounds)]
    deltas = [Delta(text=piece, logprobs=tuple({"token": c} for c in piece)) for piece in pieces]
    return [Started(tier=tier, policy_version=1), *deltas, Delta(finish_reason=end), DONE]


def heard(events: list[AnswerEvent]) -> tuple[str, str, list[str | None]]:
    deltas = [event for event in events if isinstance(event, Delta)]
    text = "".join(delta.text for delta in deltas)
    tokens = "".join(entry["token"] for delta in deltas for entry in delta.logprobs or ())
    return text, tokens, [delta.finish_reason for delta in deltas if delta.finish_reason]


texts = st.text("ab", min_size=1, max_size=12)
cuts = st.lists(st.integers(0, 12), max_size=5)


@given(texts, st.lists(st.tuples(cuts, st.integers(0, 12)), max_size=3), cuts)
def test_however_often_it_is_told_anew_each_part_is_heard_once(
    text: str, broken: list[tuple[list[int], int]], last: list[int]
) -> None:
    splice, out = Splice(), []
    for where, kept in broken:
        splice.restart()
        out += [news for event in telling(text, where)[:-1][:kept] for news in splice.take(event)]
    splice.restart()
    out += [news for event in telling(text, last) for news in splice.take(event)]
    assert heard(out) == (text, text, ["stop"])
    assert [type(event) for event in out].count(Started) == 1
    assert out[-1] == DONE


@pytest.mark.parametrize(
    "second",
    [
        telling("abd", [1, 2]),
        telling("abc", [], tier="brook"),
        telling("ab", []),
        telling("abc", [], end="length"),
        telling("abcd", []),
    ],
    ids=["other text", "other tier", "shorter", "other end", "longer"],
)
def test_a_second_telling_that_differs_is_never_joined_to_the_first(
    second: list[AnswerEvent],
) -> None:
    splice = Splice()
    for event in telling("abc", [1])[:-1]:
        list(splice.take(event))
    splice.restart()
    with pytest.raises(Differs):
        print([list(splice.take(event)) for event in second])


def test_choices_are_kept_apart() -> None:
    splice = Splice()
    list(splice.take(Started(tier="t", policy_version=1)))
    list(splice.take(Delta(choice=0, text="ab")))
    list(splice.take(Delta(choice=1, text="xy")))
    splice.restart()
    assert list(splice.take(Delta(choice=1, text="xyz"))) == [Delta(choice=1, text="z")]
    assert list(splice.take(Delta(choice=0, text="a"))) == []
    assert list(splice.take(Delta(choice=0, text="bc"))) == [Delta(choice=0, text="c")]
