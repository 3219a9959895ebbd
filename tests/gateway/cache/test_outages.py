"""Whatever happens to Redis under traffic, no request fails and no answer changes."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from gateway.cache.responses import ResponseCache
from gateway.cascade.live import LivePolicy
from gateway.cascade.policy import Policy
from gateway.cascade.run import Cascade
from gateway.generation import Delta, Job, Started, TierDone, TierEvent, Usage
from gateway.store.lane import Limits
from gateway.store.redis_store import RedisStore

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


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=pytest.mark.full if one in RARER else ()) for one in OUTAGES],
)
async def test_no_request_fails_no_answer_changes_and_the_cache_comes_back(
    name: str, redis_server: Any, scripted: Any, make_job: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    breaks, mends = OUTAGES[name]
    store = RedisStore(redis_server.url, limits=SHORT)
    live = LivePolicy(Policy.initial(("only",)), store=store, secret=SECRET)
    await live.start()
    cache = ResponseCache(store, secret=SECRET)
    traffic = Traffic(Cascade([scripted("only", echo)], live, cache=cache), make_job)
    clients = [asyncio.create_task(traffic.client(number)) for number in range(8)]
    try:
        await traffic.hits_again()
        breaks(redis_server)
        await traffic.more(200)
        mends(redis_server)
        await traffic.hits_again()
        assert not any(client.done() for client in clients)
    finally:
        traffic.running = False
        await asyncio.gather(*clients)
        await live.aclose()
        await cache.flush()
        await store.aclose()
    lines = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) <= 12, lines


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
