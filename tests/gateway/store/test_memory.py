"""The store of one process keeps to its bounds."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gateway.store.memory import ENTRY_OVERHEAD_BYTES, MemoryStore


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_value_lives_as_long_as_it_was_given() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    await store.set("k", b"v", ttl_s=10)
    clock.now = 9.9
    assert await store.get("k") == b"v"
    clock.now = 10
    assert await store.get("k") is None
    assert store.used_bytes == 0


async def test_the_least_recently_used_leaves_first() -> None:
    size = 100 + 1 + ENTRY_OVERHEAD_BYTES
    store = MemoryStore(max_bytes=2 * size)
    await store.set("a", b"x" * 100, ttl_s=10)
    await store.set("b", b"x" * 100, ttl_s=10)
    await store.get("a")
    await store.set("c", b"x" * 100, ttl_s=10)
    assert [await store.get(key) is not None for key in "abc"] == [True, False, True]


async def test_a_value_larger_than_the_store_replaces_nothing_but_its_own_key() -> None:
    store = MemoryStore(max_bytes=1000)
    await store.set("a", b"old", ttl_s=10)
    await store.set("b", b"other", ttl_s=10)
    await store.set("a", b"x" * 1000, ttl_s=10)
    assert await store.get("a") is None
    assert await store.get("b") == b"other"


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 600)), max_size=60))
async def test_it_never_holds_more_than_allowed(writes: list[tuple[str, int]]) -> None:
    store = MemoryStore(max_bytes=2000)
    for key, length in writes:
        await store.set(key, b"x" * length, ttl_s=10)
        assert store.used_bytes <= 2000
        found = await store.get(key)
        assert found is None or len(found) == length


async def test_only_the_one_who_knows_the_present_value_may_replace_it() -> None:
    store = MemoryStore()
    assert not await store.compare_and_set("k", expected=b"x", value=b"1")
    assert await store.compare_and_set("k", expected=None, value=b"1")
    assert not await store.compare_and_set("k", expected=None, value=b"2")
    assert await store.compare_and_set("k", expected=b"1", value=b"2")
    assert await store.load("k") == b"2"


async def test_a_change_wakes_those_who_wait_for_that_key_only() -> None:
    store = MemoryStore()
    mine = asyncio.create_task(store.wait_changed("k", 30))
    others = asyncio.create_task(store.wait_changed("other", 30))
    await asyncio.sleep(0)
    await store.compare_and_set("k", expected=None, value=b"1")
    await asyncio.wait_for(mine, 5)
    assert not others.done()
    others.cancel()


async def test_waiting_ends_by_itself() -> None:
    await asyncio.wait_for(MemoryStore().wait_changed("k", 0.01), 5)
