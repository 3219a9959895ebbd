"""Prefixes that outlive their engine in a real Redis, and a Redis that does not live."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.config import EngineConfig, ModelConfig
from gateway.engine.block_store import RedisBlockStore, open_block_store
from verifier.blocks import MemoryBlockStore

NAME = bytes(range(32))


def test_a_value_comes_back_under_its_name_for_as_long_as_it_is_kept(redis_server: Any) -> None:
    store = RedisBlockStore(redis_server.url, ttl_s=60)
    store.save(NAME, b"\0\xff value")
    assert store.restore([NAME, NAME[::-1]]) == [b"\0\xff value", None]
    ttl = int(redis_server.command("PTTL", f"spillway:kv:1:{NAME.hex()}")[1:])
    assert 0 < ttl <= 60_000
    store.close()


def test_a_redis_that_is_gone_is_an_error_soon_and_works_again_later(redis_server: Any) -> None:
    store = RedisBlockStore(redis_server.url, ttl_s=60)
    store.save(NAME, b"kept")
    redis_server.kill()
    with pytest.raises(Exception, match="Connection"):
        store.restore([NAME])
    redis_server.start()
    assert store.restore([NAME]) == [None]
    redis_server.freeze()
    with pytest.raises(Exception, match="Timeout"):
        store.restore([NAME])
    redis_server.thaw()
    assert store.restore([NAME]) == [None]


def test_the_configuration_names_the_store() -> None:
    assert open_block_store(None, ttl_s=1, memory_bytes=1) is None
    assert isinstance(open_block_store("memory", ttl_s=1, memory_bytes=1), MemoryBlockStore)
    url = "redis://:hidden-word@127.0.0.1:1/0"
    assert isinstance(open_block_store(url, ttl_s=1, memory_bytes=1), RedisBlockStore)
    models = (ModelConfig(name="m", path=Path()),)
    with pytest.raises(ValueError, match="redis://"):
        EngineConfig(name="e", models=models, block_store="file:///tmp")


def _config(folder: Path, ladder: Path, url: str) -> Path:
    file = folder / "engines.toml"
    file.write_text(
        f'[[engines]]\nname = "e"\nthreads = 1\nblock_store = "{url}"\nblock_wait_s = 20.0\n'
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
        redis_server.freeze()
        assert (await _ask(session, {**body, "cache_salt": "frozen"}))[0] == text
        redis_server.thaw()
        redis_server.kill()
        assert (await _ask(session, {**body, "cache_salt": "killed"}))[0] == text
        assert await _metric(session, "spillway_engine_pages_used") == 0
    assert second.stop() == 0
