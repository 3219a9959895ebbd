"""Everything behind the faces, put together from the configuration."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from gateway.cache.flights import Flights
from gateway.cache.responses import ResponseCache, Rules
from gateway.cascade.estimator import load_estimator
from gateway.cascade.live import LivePolicy
from gateway.cascade.policy import Policy, Rung
from gateway.cascade.run import Cascade
from gateway.config import Config, RedisConfig
from gateway.config_cache import CacheConfig
from gateway.errors import ConfigError
from gateway.generation import Tier, Usage
from gateway.near.embedder import ProcessEmbedder
from gateway.near.index import Index
from gateway.near.neighbours import NearRules, Neighbours
from gateway.store.lane import Limits
from gateway.store.memory import DEFAULT_MAX_BYTES, MemoryStore
from gateway.store.redis_store import RedisStore
from gateway.store.relay import Relay
from gateway.store.store import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A cascade at work and what it stands on."""

    cascade: Cascade
    live: LivePolicy
    cache: ResponseCache
    store: Store


@asynccontextmanager
async def running_cascade(
    config: Config,
    tiers: Sequence[Tier],
    *,
    escalated: Callable[[str], None] | None = None,
    used: Callable[[str, Usage], None] | None = None,
) -> AsyncIterator[Running]:
    """Open the store, agree on the policy, load the router; on leaving, close what was opened.

    ``escalated`` is told the name of each tier whose answer was rejected, ``used`` that of each
    tier that gave one, with its usage.

    Raises:
        ConfigError: thresholds that cannot be used.
    """
    secret = config.secret_bytes()
    _warn_of_a_secret_of_our_own(config)
    initial = initial_policy(config)
    async with AsyncExitStack() as stack:
        store = open_store(config.redis, config.cache.memory_bytes)
        stack.push_async_callback(store.aclose)
        live = LivePolicy(
            initial, store=store, secret=secret, state_file=config.state_dir / "policy.json"
        )
        await live.start()
        stack.push_async_callback(live.aclose)
        cache = ResponseCache(store, secret=secret, rules=cache_rules(config.cache))
        stack.push_async_callback(cache.flush)
        flights = await stack.enter_async_context(_flights(config, secret))
        neighbours = await stack.enter_async_context(_neighbours(config.cache))
        cascade = Cascade(
            tiers,
            live,
            estimator=load_estimator(config.router.path, initial.ladder),
            cache=cache,
            flights=flights,
            neighbours=neighbours,
            max_escalations=config.cascade.max_escalations,
            deadline_s=config.cascade.deadline_s,
            escalated=escalated,
            used=used,
        )
        yield Running(cascade, live, cache, store)


def cache_rules(config: CacheConfig) -> Rules:
    """What the configuration lets the response cache keep."""
    return Rules(
        ttl_s=config.ttl_s,
        max_bytes=config.max_entry_bytes,
        sampled=config.sampled,
        refusals_s=config.refusals_s,
        responses=config.responses,
    )


@asynccontextmanager
async def _flights(config: Config, secret: bytes) -> AsyncIterator[Flights | None]:
    """What generates equal requests once; over replicas where there is a Redis."""
    if not config.cache.single_flight:
        yield None
        return
    url = config.redis.url
    relay = None if url is None else Relay(url, _limits(config.redis))
    flights = Flights(secret=secret, relay=relay)
    try:
        yield flights
    finally:
        await flights.aclose()
        if relay is not None:
            await relay.aclose()


@asynccontextmanager
async def _neighbours(config: CacheConfig) -> AsyncIterator[Neighbours | None]:
    """What finds answers to similar requests, where an embedder is configured."""
    near = config.near
    if near.embedder is None:
        yield None
        return
    embedder = ProcessEmbedder(near.embedder)
    index = Index(max_entries=near.max_entries, max_bytes=near.memory_bytes, ttl_s=config.ttl_s)
    rules = NearRules(
        most=near.most, least_similarity=near.least_similarity, budget_s=near.budget_s
    )
    neighbours = Neighbours(embedder, index, rules)
    try:
        yield neighbours
    finally:
        await neighbours.aclose()
        await embedder.aclose()


def open_store(redis: RedisConfig, memory_bytes: int = DEFAULT_MAX_BYTES) -> Store:
    """Redis when a URL is configured, else this process."""
    if redis.url is None:
        return MemoryStore(max_bytes=memory_bytes)
    return RedisStore(redis.url, limits=_limits(redis))


def _limits(redis: RedisConfig) -> Limits:
    return Limits(
        call_s=redis.call_timeout_s,
        pool_wait_s=redis.call_timeout_s,
        connect_s=redis.connect_timeout_s,
        socket_s=redis.socket_timeout_s,
        connections=redis.max_connections,
    )


def _warn_of_a_secret_of_our_own(config: Config) -> None:
    """Gateways may share a state directory, so this is no error; those that do not must know."""
    if config.redis.url is not None and config.secret is None:
        _log.warning(
            "redis.url is set and SPILLWAY_SECRET is not: the secret made in %s is used. Gateways "
            "on one Redis that do not share that directory need one SPILLWAY_SECRET; without it "
            "they share neither policy nor cached answers",
            config.state_dir,
        )


def initial_policy(config: Config) -> Policy:
    """Version 1 as the configuration has it; one half where it says nothing.

    Raises:
        ConfigError: thresholds for the last tier, whose answer always stands.
    """
    ladder = [tier.name for tier in config.tiers]
    chosen = config.cascade.thresholds
    if ladder[-1] in chosen:
        raise ConfigError(
            f"cascade.thresholds.{ladder[-1]}: got thresholds for the last tier; "
            "expected none, its answer always stands"
        )
    rungs = {name: Rung(name, one.start, one.accept) for name, one in chosen.items()}
    return Policy.initial(ladder, rungs)
