"""The listener below the handlers: slow headers, kept connections, the unexpected."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from gateway.wire.middleware import install
from gateway.wire.server import Connection, listener


async def crash(request: web.Request) -> web.Response:
    raise RuntimeError("secret at 0xdeadbeef in /etc/passwd")


async def ok(request: web.Request) -> web.Response:
    return web.Response(text="ok")


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[int]:
    app = web.Application()
    install(app)
    app.add_routes([web.get("/crash", crash), web.get("/ok", ok)])
    runner = listener(app, shutdown_s=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def exchange(port: int, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            answer = await reader.read()
            writer.close()
            return answer
    return b""


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()


async def test_an_unexpected_error_is_opaque_and_logged_once_under_its_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening() as port:
        head, _, body = (await exchange(port, get("/crash"))).partition(b"\r\n\r\n")
    assert b" 500 " in head
    told = json.loads(body)["error"]["message"]
    assert "secret" not in told
    errors = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].getMessage().split()[1] in told


async def test_headers_that_trickle_in_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "header_timeout_s", 0.1)
    async with listening() as port:
        assert await exchange(port, b"GET /ok HTTP/1.1\r\nHost: x\r\nSlow: ") == b""
        assert b"200 OK" in await exchange(port, get("/ok"))


async def test_a_connection_that_was_used_outlives_the_header_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Connection, "header_timeout_s", 0.05)
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), 20)
            assert b"200 OK" in head
            await asyncio.sleep(0.15)
        writer.close()


def test_the_fast_parser_is_in_use() -> None:
    from aiohttp import http_parser

    assert http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy
