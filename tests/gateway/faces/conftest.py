"""A front end on a real loopback port, answering from a script instead of a cascade."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from gateway.app import bare_app
from gateway.faces.admission import Admission
from gateway.faces.front import FRONT, Front
from gateway.generation import AnswerEvent, Delta, Finished, Job, Started, Usage
from gateway.keys import anonymous_keys
from gateway.wire.server import listener

Script = Callable[[Job], AsyncIterator[AnswerEvent]]
SECRET = b"s" * 32


async def hello(job: Job) -> AsyncIterator[AnswerEvent]:
    """Says "Hello world" in every choice."""
    yield Started(tier="brook" if job.model == "auto" else job.model, policy_version=3)
    choices = job.body.get("n") or 1
    for piece in ("Hello", " wörld\u2028"):
        for choice in range(choices):
            entry = {"token": piece, "logprob": -0.5, "bytes": list(piece.encode())}
            rivals = [{"token": "?", "logprob": -2.0, "bytes": [63]}]
            wanted = job.body.get("logprobs")
            logprobs = ({**entry, "top_logprobs": rivals},) if wanted else None
            yield Delta(choice=choice, text=piece, logprobs=logprobs)
    for choice in range(choices):
        yield Delta(choice=choice, finish_reason="stop")
    usage = Usage(prompt_tokens=5, completion_tokens=2 * choices, cached_tokens=1)
    yield Finished(usage=usage, fingerprint="fp_1", receipt={"tier": "brook", "steps": 2})


@dataclass
class ScriptedAnswerer:
    """Answers from ``script``; remembers its jobs and how many answers are open."""

    script: Script = hello
    jobs: list[Job] = field(default_factory=list)
    open: int = 0

    async def answer(self, job: Job) -> AsyncIterator[AnswerEvent]:
        self.jobs.append(job)
        self.open += 1
        try:
            async with contextlib.aclosing(self.script(job)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event
        finally:
            self.open -= 1


@dataclass
class StubTier:
    """A tier that only knows its name and whether it is well."""

    name: str
    up: bool = True
    capabilities: frozenset[str] = frozenset()
    fingerprint: str | None = None
    max_model_len: int | None = None

    def usable(self) -> bool:
        return self.up

    def stream(self, job: Job, body: Any) -> Any:
        raise NotImplementedError


@dataclass
class Served:
    """A front end that listens, and a client for it."""

    url: str
    app: web.Application
    answerer: ScriptedAnswerer
    http: aiohttp.ClientSession

    @property
    def front(self) -> Front:
        return self.app[FRONT]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def openai(self, **options: Any) -> openai.AsyncOpenAI:
        given = {"api_key": "none", "base_url": f"{self.url}/v1", "max_retries": 0, **options}
        return openai.AsyncOpenAI(**given)

    async def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any]:
        """Status and JSON of a POST of JSON, or of bytes as they are."""
        given = {"data": body} if isinstance(body, bytes) else {"json": body}
        async with self.http.post(self.url + path, **given, **options) as response:
            return response.status, await response.json()

    async def chat(self, **fields: Any) -> tuple[int, Any]:
        messages = [{"role": "user", "content": "hi"}]
        body = {"model": "auto", "messages": messages, **fields}
        return await self.post("/v1/chat/completions", body)


@contextlib.asynccontextmanager
async def serving(
    *, max_body_bytes: int = 1024 * 1024, more_routes: Any = (), **parts: Any
) -> AsyncIterator[Served]:
    answerer = parts.pop("answerer", None) or ScriptedAnswerer()
    app = bare_app(max_body_bytes)
    given = {
        "answerer": answerer,
        "tiers": {name: StubTier(name) for name in ("brook", "river")},
        "keys": anonymous_keys(SECRET),
        "admission": Admission(16, 16),
        **parts,
    }
    app[FRONT] = Front(**given)
    app.add_routes(more_routes)
    runner = listener(app, shutdown_s=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as http:
        yield Served(f"http://127.0.0.1:{port}", app, answerer, http)
    await runner.cleanup()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as one:
        yield one


@pytest.fixture
def start() -> Callable[..., contextlib.AbstractAsyncContextManager[Served]]:
    """``async with start(keys=…, admission=…) as served``."""
    return serving


@pytest.fixture
def say_hello() -> Script:
    return hello
