"""One policy in force everywhere: over restarts, outages, and stores that forget or lie."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.cascade.live import LivePolicy
from gateway.cascade.policy import Policy, Rung
from gateway.errors import StalePolicy, StoreUnavailable
from gateway.store.memory import MemoryStore
from gateway.store.redis_store import RedisStore
from gateway.store.sealed import Seal

SECRET = b"s" * 32
LADDER = ("brook", "river")
KEY = "spillway:policy:brook,river"


def rungs(accept: float) -> Callable[[Policy], tuple[Rung, ...]]:
    return lambda _: (Rung("brook", 0.5, accept), Rung("river"))


def first_accept(live: LivePolicy) -> float:
    return live.current.rungs[0].accept


async def until(true: Callable[[], bool], within_s: float = 20.0) -> float:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within_s, "it never came true"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


Replica = Callable[..., Awaitable[LivePolicy]]


@pytest.fixture
async def replica(redis_server: Any) -> AsyncIterator[Replica]:
    """Starts a gateway's policy on the real Redis; all are closed in the end."""
    async with AsyncExitStack() as stack:

        async def start(initial: Policy | None = None, **parts: Any) -> LivePolicy:
            store = RedisStore(redis_server.url)
            stack.push_async_callback(store.aclose)
            live = LivePolicy(
                initial or Policy.initial(LADDER), store=store, secret=SECRET, **parts
            )
            await live.start()
            stack.push_async_callback(live.aclose)
            return live

        yield start


async def test_a_change_takes_effect_at_once_and_raises_the_version() -> None:
    live = LivePolicy(Policy.initial(LADDER), store=MemoryStore(), secret=SECRET)
    before = live.current
    change = await live.replace(rungs(0.9), expected_etags=frozenset({before.etag}))
    assert (change.before, change.after) == (before, live.current)
    assert (live.current.version, first_accept(live)) == (2, 0.9)


async def test_a_change_of_something_else_than_expected_changes_nothing() -> None:
    live = LivePolicy(Policy.initial(LADDER), store=MemoryStore(), secret=SECRET)
    with pytest.raises(StalePolicy) as stale:
        await live.replace(rungs(0.9), expected_etags=frozenset({'"0-x"'}))
    assert stale.value.current == live.current.etag
    assert live.current.version == 1


async def test_a_dry_run_changes_nothing() -> None:
    live = LivePolicy(Policy.initial(LADDER), store=MemoryStore(), secret=SECRET)
    change = await live.replace(rungs(0.9), expected_etags=None, dry_run=True)
    assert change.after.version == 2
    assert live.current.version == 1


async def test_of_many_writers_at_once_each_gets_its_own_version() -> None:
    store = MemoryStore()
    lives = [LivePolicy(Policy.initial(LADDER), store=store, secret=SECRET) for _ in range(4)]
    changes = await asyncio.gather(
        *(live.replace(rungs(at / 10), expected_etags=None) for at, live in enumerate(lives))
    )
    assert sorted(change.after.version for change in changes) == [2, 3, 4, 5]


async def test_a_restart_keeps_the_policy(tmp_path: Path) -> None:
    file = tmp_path / "state" / "policy.json"
    live = LivePolicy(Policy.initial(LADDER), store=MemoryStore(), secret=SECRET, state_file=file)
    await live.replace(rungs(0.9), expected_etags=None)
    again = LivePolicy(Policy.initial(LADDER), store=MemoryStore(), secret=SECRET, state_file=file)
    assert again.current == live.current


@pytest.mark.parametrize("left", [b"", b"garbage", b'{"version":9,"tiers":{"other":{}}}'])
async def test_a_kept_file_that_does_not_fit_is_not_used(tmp_path: Path, left: bytes) -> None:
    file = tmp_path / "policy.json"
    file.write_bytes(left)
    live = LivePolicy(Policy.initial(LADDER), store=MemoryStore(), secret=SECRET, state_file=file)
    assert live.current == Policy.initial(LADDER)


async def test_replicas_agree_within_a_second_of_a_change(replica: Replica) -> None:
    one, other = await replica(), await replica()
    for accept in (0.1, 0.2, 0.3):
        await one.replace(rungs(accept), expected_etags=None)
        assert await until(lambda wanted=accept: first_accept(other) == wanted) < 1.0
    assert one.current == other.current


async def test_a_newcomer_takes_over_what_the_others_agreed_on(replica: Replica) -> None:
    one = await replica()
    await one.replace(rungs(0.9), expected_etags=None)
    newcomer = await replica(Policy.initial(LADDER, {"brook": Rung("brook", 0.1, 0.1)}))
    assert newcomer.current == one.current


async def test_a_wiped_store_gets_the_highest_known_version_back(
    replica: Replica, redis_server: Any
) -> None:
    one, other = await replica(), await replica()
    await one.replace(rungs(0.9), expected_etags=None)
    await until(lambda: first_accept(other) == 0.9)
    redis_server.command("FLUSHALL")
    late = await replica()
    await until(lambda: late.current == one.current == other.current)
    assert late.current.version == 2
    await other.replace(rungs(0.8), expected_etags=None)
    await until(lambda: late.current == one.current == other.current)
    assert late.current.version == 3


@pytest.mark.parametrize("garbage", ["", "junk", "SPWV\x01junk"])
async def test_garbage_in_the_store_is_not_believed_and_replaced(
    replica: Replica, redis_server: Any, garbage: str
) -> None:
    live = await replica()
    await live.replace(rungs(0.9), expected_etags=None)
    redis_server.command("SET", KEY, garbage)
    fresh = await replica()
    await until(lambda: fresh.current.version == 2)
    assert first_accept(live) == first_accept(fresh) == 0.9


async def test_a_policy_sealed_with_another_secret_is_not_believed() -> None:
    store = MemoryStore()
    forged = Policy(99, rungs(0.0)(Policy.initial(LADDER)))
    await store.compare_and_set(
        KEY, expected=None, value=Seal(b"other" * 8).close(KEY, forged.encode())
    )
    live = LivePolicy(Policy.initial(LADDER), store=store, secret=SECRET)
    await live.sync()
    assert live.current.version == 1
    await live.replace(rungs(0.9), expected_etags=None)
    assert live.current.version == 2


async def test_gateways_of_different_secrets_say_so_and_do_not_keep_the_store_busy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = _Counting()
    lives = [
        LivePolicy(Policy.initial(LADDER), store=store, secret=bytes([at]) * 32) for at in (1, 2)
    ]
    for live in lives:
        await live.start()
    await until(lambda: caplog.text.count("must share SPILLWAY_SECRET") == 2)
    store.writes = 0
    await asyncio.sleep(0.5)
    for live in lives:
        await live.aclose()
    assert store.writes < 50  # unbridled they write thousands


class _Counting(MemoryStore):
    writes = 0

    async def compare_and_set(self, key: str, *, expected: bytes | None, value: bytes) -> bool:
        self.writes += 1
        return await super().compare_and_set(key, expected=expected, value=value)


async def test_ladders_that_differ_do_not_disturb_each_other(replica: Replica) -> None:
    one = await replica()
    other = await replica(Policy.initial(("brook", "creek", "river")))
    await one.replace(rungs(0.9), expected_etags=None)
    await asyncio.sleep(0.6)
    assert (one.current.version, other.current.version) == (2, 1)


@pytest.mark.parametrize("outage", ["killed", "frozen"])
async def test_while_redis_is_gone_the_policy_stays_and_changes_are_refused(
    replica: Replica, redis_server: Any, outage: str
) -> None:
    live = await replica()
    await live.replace(rungs(0.9), expected_etags=None)
    if outage == "killed":
        redis_server.kill()
    else:
        redis_server.freeze()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await live.replace(rungs(0.1), expected_etags=None)
    assert (live.current.version, first_accept(live)) == (2, 0.9)
    if outage == "killed":
        redis_server.start()
    else:
        redis_server.thaw()
    other = await replica()
    await until(lambda: other.current == live.current)
    assert (live.current.version, first_accept(live)) == (2, 0.9), "a refused change took effect"
    await until_changed(live, 0.2)
    await until(lambda: first_accept(other) == 0.2)


async def until_changed(live: LivePolicy, accept: float) -> None:
    for _ in range(50):
        try:
            await live.replace(rungs(accept), expected_etags=None)
            return
        except StoreUnavailable:
            await asyncio.sleep(0.1)
    raise AssertionError("the store never came back")


async def test_a_start_without_redis_uses_what_was_kept(
    replica: Replica, redis_server: Any, tmp_path: Path
) -> None:
    live = await replica(state_file=tmp_path / "policy.json")
    await live.replace(rungs(0.9), expected_etags=None)
    redis_server.kill()
    alone = await replica(state_file=tmp_path / "policy.json")
    assert alone.current == live.current
