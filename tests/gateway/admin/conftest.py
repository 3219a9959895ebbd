"""The admin API on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.admin.audit import AuditLog
from gateway.admin.cascade import AdminApi
from gateway.cascade.live import LivePolicy
from gateway.cascade.policy import Policy
from gateway.store.memory import MemoryStore

LADDER = ("brook", "creek", "river")
SECRET = b"s" * 32


class Served:
    """One admin API, its address, and what stands behind it."""

    def __init__(self, api: AdminApi, client: aiohttp.ClientSession, base: str) -> None:
        self.api = api
        self.live = api.live
        self.client = client
        self.url = f"{base}/admin/cascade"
        self.base = base

    async def call(
        self, method: str = "GET", *, path: str = "", **parts: Any
    ) -> aiohttp.ClientResponse:
        response = await self.client.request(method, self.url + path, **parts)
        await response.read()
        return response


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve(tmp_path: Path, scripted: Any, speech: Any) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(*, store: Any = None, **parts: Any) -> Served:
            live = LivePolicy(Policy.initial(LADDER), store=store or MemoryStore(), secret=SECRET)
            await live.start()
            stack.push_async_callback(live.aclose)
            tiers = [scripted(name, speech.says("x")) for name in LADDER]
            log = AuditLog(tmp_path / "state" / "audit.jsonl")
            api = AdminApi(**{"live": live, "tiers": tiers, "audit": log, **parts})
            app = web.Application()
            app.add_routes(api.routes())
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            client = await stack.enter_async_context(aiohttp.ClientSession())
            return Served(api, client, f"http://127.0.0.1:{port}")

        yield start


@pytest.fixture
def good() -> dict[str, Any]:
    """A whole set of thresholds."""
    return {
        "tiers": {"brook": {"start": 0.1, "accept": 0.2}, "creek": {"start": 0.3, "accept": 0.4}}
    }
