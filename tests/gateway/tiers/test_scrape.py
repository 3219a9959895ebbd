"""The metrics of every engine on one page, whatever some of them answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from gateway.config import TierConfig
from gateway.tiers import scrape
from gateway.tiers.client import TierClient, address_of
from gateway.tiers.scrape import engines_exposition, page_of


def client_of(base: str) -> TierClient:
    config = TierConfig(name="t", url=f"{base}/v1")
    return TierClient(config, address_of(config.url))


def samples(page: bytes) -> dict[tuple[str, str, str], float]:
    return {
        (one.name, one.labels["engine"], one.labels.get("model", "")): one.value
        for family in text_string_to_metric_families(page.decode())
        for one in family.samples
    }


@pytest.fixture
async def oddities() -> AsyncIterator[str]:
    """A server that answers oddly, each way under a path of its own."""

    async def answer(request: web.Request) -> web.Response:
        way = request.match_info["way"]
        if way == "silent":
            await asyncio.sleep(30)
        body = {"endless": b"x" * 300_000, "garbage": b"a{ 1\n\xff{}", "numbers": b"a 1 2 3 4 b\n"}
        return web.Response(body=body.get(way, b""), status=500 if way == "broken" else 200)

    app = web.Application()
    app.router.add_get("/{way}/metrics", answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_engines_are_told_apart_and_a_silent_one_hides_no_other(
    shared_engine: Any, oddities: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape, "_WITHIN_S", 1.0)
    ways = ("silent", "endless", "garbage", "numbers", "broken")
    bases = {"a": shared_engine.base, "b": shared_engine.base, "gone": "http://127.0.0.1:1"}
    bases |= {way: f"{oddities}/{way}" for way in ways}
    clients = {name: client_of(base) for name, base in bases.items()}
    pages = {name: (lambda one=one: page_of(one)) for name, one in clients.items()}
    page = await engines_exposition(pages)
    for one in clients.values():
        await one.close()
    found = samples(page)
    up = {engine: value for (name, engine, _), value in found.items() if name.endswith("_up")}
    assert up == {"a": 1, "b": 1, "gone": 0, **dict.fromkeys(ways, 0)}
    for engine in ("a", "b"):
        assert found["spillway_engine_pages", engine, "large"] > 0
        assert found["spillway_engine_steps_total", engine, "small"] >= 0
        assert found["spillway_engine_model_info", engine, "large"] == 1
    assert page.count(b"# TYPE spillway_engine_steps_total counter") == 1


async def test_without_engines_the_page_is_almost_empty() -> None:
    assert samples(await engines_exposition({})) == {}
