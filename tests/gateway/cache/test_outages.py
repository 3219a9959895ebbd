"""Whatever happens to Redis under traffic, no request fails and no answer changes."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from gateway.cache.flights import Flights
from gateway.cache.responses import ResponseCache
from gateway.cascade.live import LivePolicy
from gateway.cascade.policy import Policy
from gateway.cascade.run import Cascade
from gateway.generation import Delta, Job, Started, TierDone, TierEvent, Usage
from gateway.store.lane import Limits
from gateway.store.redis_store import RedisStore
from gateway.store.relay import Relay

SECRET = b"s" * 32
QUESTIONS = 20
SHORT = Limits(call_s=0.25, connect_s=0.25, socket_s=0.25, first_pause_s=0.1, longest_pause_s=0.5)


async def echo(job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
    await asyncio.sleep(0.001)
    yield Delta(text=body["messages"][0]["content"], finish_reason="stop")
    yield TierDone(usage=Usage(completion_tokens=1))


class Traffic:
    """Clients that ask the same few questions over and over and check every answer."""

    def __init__(self, cascade: Cascade, make_job: Callable[..., Job]) -> None:
        self.cascade = cascade
        self.make_job = make_job
        self.answered = 0
        self.hits = 0
        self.running = True

    async def client(self, number: int) -> None:
        while self.running:
            said = f"question {(self.answered + number) % QUESTIONS}"
            await self.ask(said)
            await asyncio.sleep(0.01)

    async def ask(self, said: str) -> None:
        body = {"temperature": 0, "messages": [{"role": "user", "content": said}]}
        async with aclosing(self.cascade.answer(self.make_job(body=body))) as events:
            seen = [event async for event in events]
        assert isinstance(seen[0], Started)
        text = "".join(event.text for event in seen if isinstance(event, Delta))
        assert text == said
        self.answered += 1
        self.hits += "hit" in (seen[0].cache_status or "")

    async def more(self, requests: int) -> int:
        """Wait for that many further answers; how many of them came from the cache."""
        until, hits = self.answered + requests, self.hits
        async with asyncio.timeout(60):
            while self.answered < until:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return self.hits - hits

    async def hits_again(self) -> None:
        """Wait until the cache serves most requests."""
        async with asyncio.timeout(30):
            while await self.more(40) < 20:
                pass


Step = Callable[[Any], object]
OUTAGES: Mapping[str, tuple[Step, Step]] = {
    "killed": (lambda redis: redis.kill(), lambda redis: redis.start()),
    "terminated": (lambda redis: redis.signal(signal.SIGTERM), lambda redis: redis.restart()),
    "frozen": (lambda redis: redis.freeze(), lambda redis: redis.thaw()),
    "flushed": (lambda redis: redis.command("FLUSHALL"), lambda redis: None),
    "full": (
        lambda redis: redis.command("CONFIG", "SET", "maxmemory", "1"),
        lambda redis: redis.command("CONFIG", "SET", "maxmemory", "0"),
    ),
    "read-only": (
        lambda redis: redis.command("REPLICAOF", "127.0.0.1", "9"),
        lambda redis: redis.command("REPLICAOF", "NO", "ONE"),
    ),
    "paused": (lambda redis: redis.command("CLIENT", "PAUSE", "1500"), lambda redis: None),
    "cut off": (
        lambda redis: redis.command("CLIENT", "KILL", "TYPE", "normal"), lambda redis: None,
    ),
}  # fmt: skip


RARER = ("terminated", "read-only", "paused", "cut off")


def garble(proxy: Any) -> None:
    proxy.change = lambda data: bytes(reversed(data))


def cut(proxy: Any) -> None:
    proxy.change = lambda data: data[: len(data) // 2]


def reset(proxy: Any) -> None:
    proxy.change = lambda data: None


def slow(proxy: Any) -> None:
    proxy.delay_s = lambda: 0.4


def lie(proxy: Any) -> None:
    """Every reply is a well-formed one to some other question."""
    proxy.change = lambda data: b"$11\r\nhello world\r\n"


def heal(proxy: Any) -> None:
    proxy.delay_s, proxy.change = (lambda: 0.0), (lambda data: data)


WIRE_OUTAGES = {"garbage": garble, "truncated": cut, "reset": reset, "slow": slow, "lying": lie}


async def goes_through(
    url: str, make_job: Any, tier: Any, breaks: Callable[[], object], mends: Callable[[], object]
) -> None:
    """Traffic before, during and after an outage: every answer right, and hits again in the end."""
    store = RedisStore(url, limits=SHORT, control_limits=SHORT)
    relay = Relay(url, SHORT)
    live = LivePolicy(Policy.initial(("only",)), store=store, secret=SECRET)
    await live.start()
    cache = ResponseCache(store, secret=SECRET)
    flights = Flights(secret=SECRET, relay=relay)
    traffic = Traffic(Cascade([tier], live, cache=cache, flights=flights), make_job)
    clients = [asyncio.create_task(traffic.client(number)) for number in range(8)]
    try:
        await traffic.hits_again()
        breaks()
        await traffic.more(200)
        mends()
        await traffic.hits_again()
        assert not any(client.done() for client in clients)
    finally:
        traffic.running = False
        await asyncio.gather(*clients)
        await flights.aclose()
        await live.aclose()
        await cache.flush()
        await relay.aclose()
        await store.aclose()


def check_lines(caplog: pytest.LogCaptureFixture) -> None:
    lines = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) <= 16, lines


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=pytest.mark.full if one in RARER else ()) for one in OUTAGES],
)
async def test_no_request_fails_no_answer_changes_and_the_cache_comes_back(
    name: str, redis_server: Any, scripted: Any, make_job: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    breaks, mends = OUTAGES[name]
    tier = scripted("only", echo)
    await goes_through(
        redis_server.url, make_job, tier, lambda: breaks(redis_server), lambda: mends(redis_server)
    )
    check_lines(caplog)


@pytest.mark.parametrize("name", WIRE_OUTAGES)
async def test_whatever_comes_over_the_wire_no_request_fails_and_no_answer_changes(
    name: str, proxy: Any, scripted: Any, make_job: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    tier, breaks = scripted("only", echo), WIRE_OUTAGES[name]
    await goes_through(proxy.url, make_job, tier, lambda: breaks(proxy), lambda: heal(proxy))
    check_lines(caplog)


async def contaminate(proxy: Any, scripted: Any, make_job: Any, requests: int) -> Counter[str]:
    """Fifty tenants ask the same questions through a slow, cutting wire and leave at random."""
    dice, seen = random.Random(29), Counter[str]()

    async def canary(job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
        for word in (job.identity.tenant, " says ", body["messages"][0]["content"]):
            await asyncio.sleep(dice.random() * 0.002)
            yield Delta(text=word, finish_reason="stop" if word[0] == "q" else None)
        yield TierDone(usage=Usage(completion_tokens=3))

    limits = Limits(call_s=1, connect_s=1, socket_s=1, pool_wait_s=1, connections=8, failures=20)
    store, relay = RedisStore(proxy.url, limits=limits), Relay(proxy.url, limits)
    cache, flights = ResponseCache(store, secret=SECRET), Flights(secret=SECRET, relay=relay)

    class Source:
        current = Policy.initial(("only",))

    tier = scripted("only", canary)
    cascade = Cascade([tier], Source(), cache=cache, flights=flights)
    proxy.delay_s = lambda: dice.random() * 0.003
    proxy.change = lambda data: None if dice.random() < 0.002 else data

    async def one() -> None:
        tenant, question = f"t{dice.randrange(50)}", f"q{dice.randrange(6)}"
        body = {"temperature": 0, "messages": [{"role": "user", "content": question}]}
        job, events = make_job(tenant=tenant, body=body), []
        async with aclosing(cascade.answer(job)) as answer:
            async for event in answer:
                events.append(event)
        text = "".join(event.text for event in events if isinstance(event, Delta))
        seen["own" if text == f"{tenant} says {question}" else "foreign"] += 1
        seen["hits"] += "hit" in (events[0].cache_status or "")

    async def client() -> None:
        for _ in range(requests // 40):
            task = asyncio.create_task(one())
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() * 0.01)
                seen["aborted"] += task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()

    await asyncio.gather(*(client() for _ in range(40)))
    proxy.change = lambda data: data
    await flights.aclose()
    await cache.flush()
    await relay.aclose()
    await store.aclose()
    return seen


async def test_nobody_gets_anothers_answer_however_requests_are_aborted(
    proxy: Any, scripted: Any, make_job: Any
) -> None:
    seen = await contaminate(proxy, scripted, make_job, 1500)
    assert seen["foreign"] == 0, seen
    assert min(seen["own"], seen["hits"], seen["aborted"]) > 100, seen


@pytest.mark.full
async def test_ten_thousand_requests_of_fifty_tenants_bring_no_foreign_answer(
    proxy: Any, scripted: Any, make_job: Any
) -> None:
    seen = await contaminate(proxy, scripted, make_job, 10_000)
    assert seen["foreign"] == 0, seen
    assert min(seen["own"], seen["hits"], seen["aborted"]) > 1000, seen


async def test_a_cache_that_cannot_be_reached_costs_less_than_its_timeout_for_long(
    redis_server: Any, scripted: Any, make_job: Any
) -> None:
    """Behind an open breaker Redis is not even asked."""
    store = RedisStore(redis_server.url, limits=Limits(first_pause_s=60, longest_pause_s=60))
    redis_server.freeze()
    cache = ResponseCache(store, secret=SECRET)

    class Source:
        current = Policy.initial(("only",))

    traffic = Traffic(Cascade([scripted("only", echo)], Source(), cache=cache), make_job)
    for number in range(100):
        await traffic.ask(f"question {number}")
    assert not store._read.up
    redis_server.thaw()
    await cache.flush()
    await store.aclose()
