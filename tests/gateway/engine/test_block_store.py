"""Prefixes that outlive their engine in a real Redis, and a Redis that does not live."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch

from gateway.config import EngineConfig, ModelConfig
from gateway.engine.block_store import RedisBlockStore, block_secret, open_block_store
from gateway.errors import ConfigError, StoreUnavailable
from verifier.block_courier import BlockCourier, BlockPolicy
from verifier.block_format import BlockFormat
from verifier.block_rates import BlockRates
from verifier.block_tiers import TieredBlockStore
from verifier.blocks import MemoryBlockStore
from verifier.rows import CacheShape

NAME = bytes(range(32))
NAMES = [bytes([number]) * 32 for number in range(40)]
SHAPE = CacheShape(layers=2, heads=2, head_size=32, dtype=torch.float32)
LAYOUT = BlockFormat("model", SHAPE, 16, b"s" * 32)


def page(number: int) -> torch.Tensor:
    return torch.full((2, 16, 4, 32), float(number))


def key(name: bytes) -> str:
    return f"spillway:kv:2:{name.hex()}"


def filled(store: RedisBlockStore, count: int = 40) -> None:
    for number, name in enumerate(NAMES[:count]):
        assert store.save(name, LAYOUT.encode(name, page(number)) or (), b"")


def found(store: RedisBlockStore, *names: bytes, size: int = LAYOUT.value_bytes) -> list[bytes]:
    came: list[bytes] = []

    def good(at: int, value: memoryview) -> bool:
        came.append(bytes(value))
        return True

    store.restore(names, size, good, b"")
    return came


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture
def store(redis_server: Any) -> Iterator[RedisBlockStore]:
    opened = RedisBlockStore(redis_server.url, ttl_s=60)
    yield opened
    opened.close()


def test_a_value_comes_back_under_its_name_for_as_long_as_it_is_kept(
    redis_server: Any, store: RedisBlockStore
) -> None:
    assert store.save(NAME, [b"\0\xff ", memoryview(b"value")], b"")
    assert found(store, NAME, NAME[::-1], NAME, size=8) == [b"\0\xff value"[:8]]
    ttl = int(redis_server.command("PTTL", key(NAME))[1:])
    assert 0 < ttl <= 60_000


def test_only_what_comes_before_a_missing_or_bad_value_is_handed_out(
    redis_server: Any, store: RedisBlockStore
) -> None:
    filled(store, 6)
    names = NAMES[:6]
    assert len(found(store, *names)) == 6
    redis_server.command("SET", key(names[4]), "short")
    assert len(found(store, *names)) == 4
    redis_server.command("DEL", key(names[2]))
    redis_server.command("LPUSH", key(names[2]), "no string")
    assert len(found(store, *names)) == 2
    redis_server.command("DEL", key(names[0]))
    assert found(store, *names) == []
    assert len(found(store, *names[1:])) == 1, "the connection is as it was"


def test_a_full_redis_refuses_and_keeps_the_connection(
    redis_server: Any, store: RedisBlockStore
) -> None:
    filled(store, 1)
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    assert not store.save(NAME, [b"more"], b"")
    assert len(found(store, *NAMES[:2])) == 1


def test_a_redis_that_is_gone_is_an_error_soon_and_works_again_later(
    redis_server: Any, store: RedisBlockStore
) -> None:
    filled(store, 1)
    redis_server.kill()
    with pytest.raises(StoreUnavailable):
        found(store, NAMES[0])
    redis_server.start()
    assert found(store, NAMES[0]) == []
    redis_server.freeze()
    with pytest.raises(StoreUnavailable):
        found(store, NAMES[0])
    redis_server.thaw()
    assert found(store, NAMES[0]) == []


def test_threads_have_connections_of_their_own(store: RedisBlockStore) -> None:
    filled(store)
    wrong: list[int] = []

    def read(thread: int) -> None:
        for turn in range(50):
            at = (7 * thread + turn) % 40
            [value] = found(store, NAMES[at])
            if LAYOUT.decode(NAMES[at], memoryview(bytearray(value))) is None:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _damage(server: Any) -> None:
    for name in NAMES[25:]:
        server.command("SETRANGE", key(name), "700", "garbage")


@pytest.mark.parametrize(
    ("trouble", "left"),
    [
        (lambda server: server.kill(), 0),
        (lambda server: server.freeze(), 0),
        (lambda server: server.command("FLUSHALL"), 0),
        (lambda server: server.command("CLIENT", "PAUSE", "600"), 0),
        (_damage, 25),
    ],
    ids=["killed", "frozen", "flushed", "slow", "garbage"],
)
def test_whatever_redis_does_a_fetch_ends_in_time_with_a_good_prefix_and_recovers(
    redis_server: Any, store: RedisBlockStore, trouble: Any, left: int
) -> None:
    filled(store)
    policy = BlockPolicy(fetch="always", wait_s=0.3 if left == 0 else 20.0, audit_every=0)
    courier = BlockCourier(store, LAYOUT, policy)
    warm = courier.fetch(NAMES)
    eventually(lambda: warm.done)
    assert len(warm.take()) == 40
    trouble(redis_server)
    fetch = courier.fetch(NAMES)
    eventually(fetch.ready)
    pages = fetch.take()
    assert list(pages) == NAMES[:left]
    assert all(torch.equal(pages[name], page(at)) for at, name in enumerate(NAMES[:left]))
    redis_server.thaw() if redis_server.process else redis_server.start()
    filled(RedisBlockStore(redis_server.url, ttl_s=60))

    def back() -> bool:
        again = courier.fetch(NAMES)
        eventually(again.ready)
        return len(again.take()) == 40

    eventually(back)
    courier.close()


def test_a_redis_over_which_computing_wins_is_turned_down(store: RedisBlockStore) -> None:
    filled(store)
    courier = BlockCourier(
        store, LAYOUT, BlockPolicy(audit_every=0), rates=BlockRates(16, token_s=1e-9)
    )
    first = courier.fetch(NAMES)
    eventually(lambda: first.done)
    first.take()
    assert courier.fetch(NAMES).done
    assert courier.counts["declined"] == 40
    courier.rates.token_s = 10.0
    fetch = courier.fetch(NAMES)
    eventually(lambda: fetch.done)
    assert len(fetch.take()) == 40
    courier.close()


def test_the_configuration_names_the_store(tmp_path: Path) -> None:
    def opened(where: str | None, size: int = 1) -> Any:
        return open_block_store(where, ttl_s=1, memory_bytes=size, share=0.5)

    assert opened(None) is None
    assert isinstance(opened("memory"), MemoryBlockStore)
    url = "redis://:hidden-word@127.0.0.1:1/0"
    assert isinstance(opened(url), TieredBlockStore)
    assert isinstance(opened(url, 0), RedisBlockStore)
    models = (ModelConfig(name="m", path=Path()),)
    with pytest.raises(ValueError, match="redis://"):
        EngineConfig(name="e", models=models, block_store="file:///tmp")


def test_the_secret_of_stored_pages_is_given_or_made_once(tmp_path: Path) -> None:
    file = tmp_path / "spillway.toml"
    file.write_text('state_dir = "state"\n')
    made = block_secret(file, {})
    assert len(made) >= 32
    assert block_secret(file, {}) == made
    assert (tmp_path / "state" / "block-secret").stat().st_mode & 0o777 == 0o600
    given = {"SPILLWAY_ENGINE_BLOCK_SECRET": "g" * 32}
    assert block_secret(file, given) == b"g" * 32
    with pytest.raises(ConfigError, match="expected 32") as caught:
        block_secret(file, {"SPILLWAY_ENGINE_BLOCK_SECRET": "short-word"})
    assert "short-word" not in str(caught.value)


def _config(folder: Path, ladder: Path, url: str) -> Path:
    file = folder / "engines.toml"
    file.write_text(
        f'state_dir = "state"\n[[engines]]\nname = "e"\nthreads = 1\nblock_store = "{url}"\n'
        'block_wait_s = 20.0\nblock_fetch = "always"\n'
        f'[[engines.models]]\nname = "large"\npath = "{ladder / "large"}"\n'
    )
    return file


async def _ask(session: aiohttp.ClientSession, body: Any) -> tuple[str, int]:
    async with session.post("/v1/chat/completions", json=body) as response:
        found = await response.json()
        assert response.status == 200, found
    cached = found["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found["choices"][0]["message"]["content"], cached


async def _metric(session: aiohttp.ClientSession, start: str) -> float:
    async with session.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


async def test_an_engine_killed_and_started_anew_takes_up_its_prefixes(
    redis_server: Any, start_engine: Any, tiny_ladder: Path, tmp_path: Path, chat: Any
) -> None:
    file = _config(tmp_path, tiny_ladder, redis_server.url)
    body = chat("the quick brown fox jumps over the lazy dog " * 8, cache_salt="tenant")
    other = {**body, "cache_salt": "another tenant"}
    saved = 'spillway_engine_block_store_pages_total{model="large",result="saved"}'

    async def engine(number: int) -> Any:
        one = start_engine(
            "--config", str(file), "--engine", "e", listen=tmp_path / f"{number}.sock"
        )
        await asyncio.to_thread(one.wait_ready)
        return one

    first = await engine(1)
    async with aiohttp.ClientSession(first.base, connector=first.connector()) as session:
        text, cached = await _ask(session, body)
        assert cached == 0
        for _ in range(400):
            if await _metric(session, saved) >= 4:
                break
            await asyncio.sleep(0.02)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()

    second = await engine(2)
    async with aiohttp.ClientSession(second.base, connector=second.connector()) as session:
        again, cached = await _ask(session, body)
        assert again == text
        assert cached >= 64
        assert await _metric(session, "spillway_engine_block_hit_tokens_total") == cached
        assert await _ask(session, other) == (text, 0), "another tenant shares no page"
        assert await _metric(session, "spillway_engine_block_store_off") == 0
        assert await _metric(session, "spillway_engine_block_store_fetch_seconds") > 0
        redis_server.command("FLUSHALL")
        assert (await _ask(session, {**body, "cache_salt": "flushed"}))[0] == text
        redis_server.freeze()
        assert (await _ask(session, {**body, "cache_salt": "frozen"}))[0] == text
        redis_server.thaw()
        redis_server.kill()
        assert (await _ask(session, {**body, "cache_salt": "killed"}))[0] == text
        assert await _metric(session, "spillway_engine_pages_used") == 0
    assert second.stop() == 0
