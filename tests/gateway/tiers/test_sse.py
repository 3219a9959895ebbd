"""The event splitter against every way a network may cut a stream."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import TierBroken
from gateway.tiers.sse import EventSplitter

ENDS = st.sampled_from(["\n", "\r\n", "\r"])
PAYLOADS = st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8")), max_size=6)


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(PAYLOADS, ENDS, st.lists(st.integers(0, 10_000), max_size=30))
def test_events_are_the_same_wherever_the_stream_is_cut(
    payloads: list[str], end: str, places: list[int]
) -> None:
    text = "".join(f": a comment{end}data: {one}{end}{end}" for one in payloads)
    splitter = EventSplitter()
    found = [event for chunk in _cut(text.encode(), places) for event in splitter.feed(chunk)]
    found += splitter.feed(b"\n")  # tells a CR at the very end from half a CRLF
    assert found == payloads


def test_a_code_point_split_over_chunks_stays_whole() -> None:
    splitter = EventSplitter()
    data = "data: né🙂\n\n".encode()
    found = [event for at in range(len(data)) for event in splitter.feed(data[at : at + 1])]
    assert found == ["né🙂"]


def test_several_data_lines_are_one_event_and_other_fields_are_skipped() -> None:
    found = EventSplitter().feed(b"event: x\nid: 1\ndata: a\ndata:b\nretry: 5\n\n\n\n")
    assert found == ["a\nb"]


def test_a_line_of_a_megabyte_is_one_event() -> None:
    payload = "x" * 2**20
    splitter = EventSplitter()
    found = []
    for chunk in _cut(f"data: {payload}\n\n".encode(), list(range(0, 2**20, 4096))):
        found += splitter.feed(chunk)
    assert found == [payload]


@pytest.mark.parametrize("endless", [b"x" * 2000, b"data: xxxxx\n" * 300])
def test_an_event_without_end_is_refused(endless: bytes) -> None:
    splitter = EventSplitter(max_event_bytes=1000)
    with pytest.raises(TierBroken, match="more than 1000"):
        splitter.feed(endless)


def test_what_is_not_utf8_is_refused() -> None:
    with pytest.raises(TierBroken, match="UTF-8"):
        EventSplitter().feed(b"data: \xff\n\n")
