"""A foreign server that does as its script says, and clients of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from gateway.config import TierConfig
from gateway.generation import Identity, Job
from gateway.tiers.client import TierClient, address_of

Script = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def chunk(text: str | None = None, *, finish: str | None = None, **more: Any) -> bytes:
    """One event of a chat stream."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


@dataclass
class Foreign:
    """What the server does, what it was sent, and whether anybody hung up on it."""

    script: Script | None = None
    refuse: Callable[[dict[str, Any]], web.Response | None] = lambda body: None
    content_type: str = "text/event-stream"
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    models: web.Response | None = None
    base: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(request.headers)
        if (refusal := self.refuse(body)) is not None:
            return refusal
        response = web.StreamResponse(headers={"content-type": self.content_type})
        await response.prepare(request)
        assert self.script is not None
        try:
            await self.script(request, response)
        except (asyncio.CancelledError, ConnectionError):
            self.hung_up.set()
            raise
        return response

    async def list_models(self, request: web.Request) -> web.Response:
        if self.models is None:
            raise web.HTTPNotFound
        return self.models


@pytest.fixture
async def foreign() -> AsyncIterator[Foreign]:
    server = Foreign()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.answer)
    app.router.add_post("/v1/completions", server.answer)
    app.router.add_get("/v1/models", server.list_models)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.base = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield server
    await runner.cleanup()


@pytest.fixture
async def tier_of() -> AsyncIterator[Callable[..., TierClient]]:
    """``tier_of(url, **fields)``: a client that is closed in the end."""
    made: list[TierClient] = []

    def make(url: str, **fields: Any) -> TierClient:
        config = TierConfig(**{"name": "big", "url": url, **fields})
        made.append(TierClient(config, address_of(url)))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture
def job() -> Job:
    identity = Identity(tenant="t", cache_salt="salt")
    return Job(request_id="r-1", endpoint="chat", model="big", body={}, identity=identity)


@pytest.fixture
def send() -> Callable[..., Script]:
    """A script that writes these pieces; a number is a pause in seconds."""

    def make(*pieces: bytes | float) -> Script:
        async def script(request: web.Request, response: web.StreamResponse) -> None:
            for piece in pieces:
                if isinstance(piece, bytes):
                    await response.write(piece)
                else:
                    await asyncio.sleep(piece)

        return script

    return make


@pytest.fixture
def event() -> Callable[..., bytes]:
    return chunk
