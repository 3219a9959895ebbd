"""A few entries, for a moment, in so many bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.entry import Entry
from gateway.cache.recent import Recent
from gateway.cascade.answer import Answer, Choice
from gateway.generation import Usage

CHOICE = Choice(text="x", finish_reason="stop")
ENTRY = Entry(
    answer=Answer(tier="t", choices=(CHOICE,), usage=Usage()), created=1.0, policy_version=1
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_entry_is_given_for_its_moment() -> None:
    clock = Clock()
    recent = Recent(ttl_s=1.0, clock=clock)
    recent.put("k", ENTRY, 10)
    assert recent.get("k") == ENTRY
    clock.now = 1.0
    assert recent.get("k") is None
    off = Recent(ttl_s=0.0)
    off.put("k", ENTRY, 10)
    assert off.get("k") is None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 60)), max_size=60))
def test_it_never_holds_more_bytes_than_allowed(puts: list[tuple[str, int]]) -> None:
    recent = Recent(ttl_s=1.0, max_bytes=100)
    for key, size in puts:
        recent.put(key, ENTRY, size)
        assert sum(kept.size for kept in recent._kept.values()) == recent._used <= 100
    recent.clear()
    assert recent._used == 0
