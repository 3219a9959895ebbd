"""Redis killed, frozen, full, lying or slow: an honest error in time, and no foreign answer."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.store.lane import Limits
from gateway.store.redis_store import RedisStore

PATIENT = Limits(call_s=10, connect_s=10, socket_s=10, pool_wait_s=10)
"""For tests that are not about time, on machines that are busy."""


@pytest.fixture
async def store(redis_server: Any) -> AsyncIterator[RedisStore]:
    opened = RedisStore(redis_server.url, limits=PATIENT)
    yield opened
    await opened.aclose()


async def fails(call: Awaitable[object]) -> bool:
    try:
        await call
    except StoreUnavailable:
        return True
    return False


async def test_a_value_is_kept_for_its_time(store: RedisStore) -> None:
    assert await store.get("k") is None
    await store.set("k", b"\x00\xff", ttl_s=600)
    assert await store.get("k") == b"\x00\xff"
    await store.set("k", b"\x00\xff", ttl_s=0.05)
    await asyncio.sleep(0.1)
    assert await store.get("k") is None


async def test_only_the_one_who_knows_the_present_value_may_replace_it(store: RedisStore) -> None:
    assert not await store.compare_and_set("k", expected=b"x", value=b"1")
    assert not await store.compare_and_set("k", expected=b"", value=b"1")
    assert await store.compare_and_set("k", expected=None, value=b"1")
    assert not await store.compare_and_set("k", expected=None, value=b"2")
    assert await store.compare_and_set("k", expected=b"1", value=b"2")
    assert await store.load("k") == b"2"


async def test_of_many_writers_exactly_one_wins(store: RedisStore) -> None:
    won = await asyncio.gather(
        *(store.compare_and_set("k", expected=None, value=b"%d" % at) for at in range(20))
    )
    assert sum(won) == 1


async def test_a_change_wakes_another_replica(store: RedisStore, redis_server: Any) -> None:
    other = RedisStore(redis_server.url, limits=PATIENT)
    waiting = asyncio.create_task(other.wait_changed("k", 60))
    await listening(redis_server)
    await store.compare_and_set("k", expected=None, value=b"1")
    await asyncio.wait_for(waiting, 10)
    await other.aclose()


async def listening(redis_server: Any) -> None:
    for _ in range(1000):
        if b"spillway:changed" in redis_server.command("PUBSUB", "CHANNELS"):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody listens")


async def test_a_value_of_another_type_is_none(store: RedisStore, redis_server: Any) -> None:
    redis_server.command("LPUSH", "k", "x")
    assert await store.get("k") is None
    assert await store.load("k") is None


async def test_a_full_redis_refuses_writes_and_still_answers_reads(
    store: RedisStore, redis_server: Any
) -> None:
    await store.set("k", b"v", ttl_s=60)
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    for _ in range(8):
        assert await fails(store.set("other", b"v", ttl_s=60))
        assert await store.get("k") == b"v"


@pytest.mark.parametrize("outage", ["killed", "frozen"])
async def test_an_outage_is_an_error_in_time_then_none_at_all_and_ends_by_itself(
    redis_server: Any, outage: str, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(call_s=0.5, failures=3, first_pause_s=0.2, longest_pause_s=0.4)
    store = RedisStore(redis_server.url, limits=limits)
    caplog.set_level(logging.WARNING, "gateway.store")
    redis_server.kill() if outage == "killed" else redis_server.freeze()
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert all([await fails(store.get("k")) for _ in range(100)])
    assert loop.time() - began < 10, "a frozen Redis holds a call for 100 ms, most are never made"
    redis_server.start() if outage == "killed" else redis_server.thaw()
    for _ in range(200):
        if not await fails(store.get("k")):
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("it never came back")
    said = [record.message for record in caplog.records if "redis read" in record.message]
    assert ["down" in line for line in said] == [True, False], said
    await store.aclose()


async def test_a_change_told_to_have_failed_never_takes_effect_later(
    redis_server: Any, proxy: Any
) -> None:
    """The server freezes between the two steps of a change and wakes when the caller has left."""
    store = RedisStore(proxy.url)
    await store.load("k")

    def freeze_after_the_time(data: bytes) -> bytes:
        if data.startswith(b"*2"):
            redis_server.freeze()
        return data

    proxy.change = freeze_after_the_time
    with pytest.raises(StoreUnavailable):
        await store.compare_and_set("k", expected=None, value=b"late")
    redis_server.thaw()
    await asyncio.sleep(0.2)
    assert redis_server.command("GET", "k") == b"$-1\r\n"
    await store.aclose()


GARBAGE = [b"", b"\x00" * 50, b"$5\r\nab", b"*-7\r\n", b"$abc\r\n", b"?what\r\n", b":\r\n", b"\r\n",
           b"-ERR no\r\n", b"$99999999999\r\n", b"%1\r\n", b"$3\r\nabcdefgh\r\n"]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_a_server_that_answers_garbage_is_an_error_and_leaves_nothing_behind(
    redis_server: Any, proxy: Any, garbage: bytes
) -> None:
    limits = Limits(call_s=0.3, socket_s=0.2, failures=10_000)
    store = RedisStore(proxy.url, limits=limits)
    redis_server.command("SET", "k", "value")
    proxy.change = lambda data: garbage
    for _ in range(3):
        with suppress(StoreUnavailable):
            assert await store.get("k") != b"value"
    proxy.change = lambda data: data
    await asyncio.sleep(0.25)
    found = set()
    for _ in range(40):
        with suppress(StoreUnavailable):
            found.add(await store.get("k"))
    assert found == {b"value"}
    await store.aclose()


async def test_connections_cut_in_the_middle_of_a_reply_lose_nothing_but_time(
    redis_server: Any, proxy: Any
) -> None:
    store = RedisStore(proxy.url, limits=Limits(call_s=5, connect_s=5, socket_s=5, failures=10_000))
    values = {f"k{at}": b"%d" % at * 3000 for at in range(20)}
    for key, value in values.items():
        await store.set(key, value, ttl_s=600)
    dice = random.Random(7)
    proxy.change = lambda data: None if dice.random() < 0.3 else data
    seen: Counter[str] = Counter()
    for _ in range(200):
        key = dice.choice(list(values))
        try:
            seen["right" if await store.get(key) == values[key] else "wrong"] += 1
        except StoreUnavailable:
            seen["failed"] += 1
    assert seen["wrong"] == 0
    assert seen["right"] > 0 < seen["failed"]
    await store.aclose()


async def hammer(
    store: RedisStore, tenants: int, requests: int, dice: random.Random
) -> Counter[str]:
    """Requests of many tenants, a third of them cancelled at a random moment."""
    seen: Counter[str] = Counter()

    async def one() -> None:
        tenant = dice.randrange(tenants)
        try:
            value = await store.get(f"tenant:{tenant}")
        except StoreUnavailable:
            seen["unavailable"] += 1
        else:
            own = value == b"canary of %d" % tenant
            seen["own" if own else "foreign"] += 1

    async def client() -> None:
        for _ in range(requests // 25):
            task = asyncio.create_task(one())
            if dice.random() < 0.33:
                await asyncio.sleep(dice.random() * 0.004)
                seen["cancelled"] += task.cancel()
            await asyncio.wait({task})

    await asyncio.gather(*(client() for _ in range(25)))
    return seen


async def test_a_cancelled_call_never_leaves_its_reply_to_the_next_caller(
    redis_server: Any, proxy: Any
) -> None:
    seed = 11
    dice = random.Random(seed)
    for tenant in range(50):
        redis_server.command("SET", f"tenant:{tenant}", f"canary of {tenant}")
    proxy.delay_s = lambda: dice.random() * 0.003
    limits = Limits(call_s=5, connect_s=5, socket_s=5, pool_wait_s=5, connections=8, waiting=1000)
    store = RedisStore(proxy.url, limits=limits)
    seen = await hammer(store, 50, 3000, dice)
    assert seen["foreign"] == 0, (seed, seen)
    assert seen["cancelled"] > 300
    assert seen["own"] > 1000
    assert seen["own"] + seen["cancelled"] + seen["unavailable"] == 3000
    for tenant in range(50):
        assert await store.get(f"tenant:{tenant}") == b"canary of %d" % tenant
    await store.aclose()


async def test_timeouts_shorter_than_the_server_is_slow_give_no_foreign_answer(
    redis_server: Any, proxy: Any
) -> None:
    dice = random.Random(5)
    for tenant in range(50):
        redis_server.command("SET", f"tenant:{tenant}", f"canary of {tenant}")
    proxy.delay_s = lambda: dice.random() * 0.02
    limits = Limits(call_s=0.008, connect_s=1, socket_s=0.012, failures=100_000, connections=8)
    store = RedisStore(proxy.url, limits=limits)
    seen = await hammer(store, 50, 2000, dice)
    assert seen["foreign"] == 0, seen
    assert seen["unavailable"] > 100
    await store.aclose()


async def test_only_so_many_commands_are_under_way(redis_server: Any) -> None:
    limits = Limits(call_s=0.05, socket_s=1, pool_wait_s=1, waiting=10, failures=10_000)
    store = RedisStore(redis_server.url, limits=limits)
    redis_server.freeze()
    failed = await asyncio.gather(*(fails(store.get("k")) for _ in range(100)))
    assert all(failed)
    assert len([t for t in asyncio.all_tasks() if "Lane._run" in repr(t)]) <= 10
    redis_server.thaw()
    await store.aclose()


async def test_closing_leaves_no_task_behind(redis_server: Any) -> None:
    before = len(asyncio.all_tasks())
    store = RedisStore(redis_server.url, limits=PATIENT)
    await store.set("k", b"v", ttl_s=1)
    await store.wait_changed("k", 0.01)
    await store.aclose()
    assert len(asyncio.all_tasks()) == before
