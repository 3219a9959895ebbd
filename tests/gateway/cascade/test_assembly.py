"""The configuration alone decides what stands behind the faces."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from gateway.cascade.assembly import initial_policy, open_store, running_cascade
from gateway.config import Config, RedisConfig
from gateway.errors import ConfigError, StoreUnavailable
from gateway.store.memory import MemoryStore
from gateway.store.redis_store import RedisStore


def config(state: Path, **parts: Any) -> Config:
    tiers = [{"name": name, "url": "http://127.0.0.1:9/v1"} for name in ("brook", "creek", "river")]
    return Config.model_validate({"tiers": tiers, "state_dir": state, **parts})


def test_the_first_policy_is_the_configurations(tmp_path: Path) -> None:
    chosen = {"thresholds": {"brook": {"start": 0.1, "accept": 0.9}}}
    policy = initial_policy(config(tmp_path, cascade=chosen))
    assert policy.document() == {
        "brook": {"start": 0.1, "accept": 0.9},
        "creek": {"start": 0.5, "accept": 0.5},
        "river": {"start": 0.0, "accept": 0.0},
    }


def test_thresholds_for_the_last_tier_are_refused(tmp_path: Path) -> None:
    chosen = {"thresholds": {"river": {"start": 0.1, "accept": 0.9}}}
    with pytest.raises(ConfigError, match="river"):
        initial_policy(config(tmp_path, cascade=chosen))


async def test_the_store_is_redis_where_a_url_is_given() -> None:
    assert isinstance(open_store(RedisConfig()), MemoryStore)
    shared = open_store(RedisConfig(url="redis://127.0.0.1:9/0"))
    assert isinstance(shared, RedisStore)
    await shared.aclose()


async def test_a_redis_that_is_far_away_serves_whoever_waits_long_enough(proxy: Any) -> None:
    proxy.delay_s = lambda: 0.2
    far = {"url": proxy.url, "connect_timeout_s": 60, "socket_timeout_s": 60}
    patient = open_store(RedisConfig(**far, call_timeout_s=60))
    await patient.set("k", b"v", ttl_s=600)
    assert await patient.get("k") == b"v"
    hasty = open_store(RedisConfig(**far))
    with pytest.raises(StoreUnavailable):
        await hasty.get("k")
    for store in (patient, hasty):
        await store.aclose()


async def test_each_part_of_the_cache_is_switched_by_the_configuration(
    tmp_path: Path, scripted: Any, speech: Any, make_job: Any
) -> None:
    async def asked_twice(cache: dict[str, Any], body: dict[str, Any]) -> int:
        tiers = [scripted(name, speech.says("I am ", name)) for name in ("brook", "creek", "river")]
        async with running_cascade(config(tmp_path, cache=cache), tiers) as running:
            for _ in range(2):
                async with aclosing(running.cascade.answer(make_job(body=body))) as events:
                    assert [event async for event in events]
                await running.cache.flush()
                await asyncio.sleep(0.01)  # nobody shares what is over
        return sum(len(tier.bodies) for tier in tiers)

    assert await asked_twice({}, {"temperature": 0}) == 1
    assert await asked_twice({"responses": False}, {"temperature": 0}) == 2
    assert await asked_twice({"max_entry_bytes": 10}, {"temperature": 0}) == 2
    assert await asked_twice({"memory_bytes": 10}, {"temperature": 0}) == 2
    assert await asked_twice({}, {}) == 2
    assert await asked_twice({"sampled": True}, {}) == 1


async def test_a_restart_keeps_the_policy_and_answers_go_on(
    tmp_path: Path, scripted: Any, speech: Any, make_job: Any
) -> None:
    tiers = [scripted(name, speech.says("I am ", name)) for name in ("brook", "creek", "river")]
    for version in (1, 2):
        async with running_cascade(config(tmp_path), tiers) as running:
            assert running.live.current.version == version
            events = [event async for event in running.cascade.answer(make_job())]
            assert events[0].tier == "river"
            await running.live.replace(lambda policy: policy.rungs, expected_etags=None)


@pytest.mark.parametrize(
    ("parts", "warned"),
    [
        ({"redis": {"url": "redis://127.0.0.1:9/0"}}, True),
        ({"redis": {"url": "redis://127.0.0.1:9/0"}, "secret": "s" * 32}, False),
        ({}, False),
    ],
)
async def test_a_gateway_on_redis_with_a_secret_of_its_own_says_what_that_costs(
    tmp_path: Path, scripted: Any, speech: Any, caplog: pytest.LogCaptureFixture,
    parts: dict[str, Any], warned: bool,
) -> None:  # fmt: skip
    tiers = [scripted(name, speech.says("x")) for name in ("brook", "creek", "river")]
    async with running_cascade(config(tmp_path, **parts), tiers):
        pass
    told = [line.getMessage() for line in caplog.records if "SPILLWAY_SECRET" in line.getMessage()]
    assert len(told) == warned
    assert all(str(tmp_path) in line and "s" * 32 not in line for line in told)


async def test_it_starts_and_answers_while_redis_is_away(
    tmp_path: Path, scripted: Any, speech: Any, make_job: Any
) -> None:
    tiers = [scripted(name, speech.says("I am ", name)) for name in ("brook", "creek", "river")]
    away = config(tmp_path, redis={"url": "redis://127.0.0.1:9/0"})
    async with running_cascade(away, tiers) as running:
        job = make_job(body={"temperature": 0})
        events = [event async for event in running.cascade.answer(job)]
        assert events[0].cache_status == "spillway; fwd=uri-miss; detail=unreachable"
