"""An engine process in bad and good days: clients that leave, signals, failures, wrong options."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway.config import EngineConfig, ModelConfig
from gateway.engine.__main__ import build_service, main
from gateway.engine.server import create_engine_app

LONG = 200  # tokens: long enough to be interrupted


async def _until(check: Any, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not await check():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_place_at_once(
    client: Any, chat: Any, stream: bool
) -> None:
    body = chat(max_tokens=LONG, ignore_eos=True, stream=stream, n=16)
    finished = await client.metric("spillway_engine_output_tokens_total", model="large")

    async def running() -> bool:
        return await client.metric("spillway_engine_requests_running", model="large") > 0

    async def idle() -> bool:
        return not await running()

    asking = asyncio.create_task(client.post("/v1/chat/completions", body))
    await _until(running)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await _until(idle)
    assert await client.metric("spillway_engine_requests_waiting", model="large") == 0
    made = await client.metric("spillway_engine_output_tokens_total", model="large") - finished
    assert made < 16 * LONG


@pytest.fixture
async def served_here() -> AsyncIterator[Any]:
    """Serve a configuration in this process: ``await serve(config, key)`` is a client."""
    clients: list[TestClient[Any, Any]] = []

    async def serve(config: EngineConfig, key: str | None = None) -> TestClient[Any, Any]:
        app = create_engine_app(build_service(config, key=key), max_body_bytes=1_000_000)
        clients.append(TestClient(TestServer(app)))
        await clients[-1].start_server()
        return clients[-1]

    yield serve
    for one in clients:
        await one.close()


def _config(ladder: Path, **fields: Any) -> EngineConfig:
    models = (ModelConfig(name="large", path=ladder / "large"),)
    return EngineConfig(name="e", models=models, threads=1, **fields)


def test_the_engine_is_set_up_as_the_configuration_says(tiny_ladder: Path) -> None:
    config = _config(tiny_ladder, order="shortest", step_tokens=64, block_wait_s=0.5)
    settled = build_service(config).engine.config
    assert (settled.order, settled.step_tokens, settled.block_policy.wait_s) == (
        "shortest",
        64,
        0.5,
    )
    whole = build_service(_config(tiny_ladder, chunked_prefill=False)).engine.config
    assert whole.step_tokens is None


async def test_a_full_queue_is_429_with_retry_after(
    served_here: Any, tiny_ladder: Path, chat: Any
) -> None:
    client = await served_here(_config(tiny_ladder, max_queue=1, max_running=1))
    body = chat(max_tokens=LONG, ignore_eos=True)
    posts = [client.post("/v1/chat/completions", json=body) for _ in range(12)]
    responses = await asyncio.gather(*posts)
    refused = [one for one in responses if one.status == 429]
    assert refused
    assert {one.status for one in responses} == {200, 429}
    for one in refused:
        assert int(one.headers["retry-after"]) >= 1
        assert (await one.json())["error"]["code"] == "rate_limit_exceeded"


async def test_a_key_guards_everything_but_the_probes(
    served_here: Any, tiny_ladder: Path, chat: Any
) -> None:
    client = await served_here(_config(tiny_ladder), "k")
    for path in ("/v1/models", "/metrics", "/v1/nosuch"):
        for shown in ({}, {"authorization": "Bearer no"}, {"authorization": "Bearer \xff"}):
            async with client.get(path, headers=shown) as response:
                assert response.status == 401, path
    assert (await client.get("/livez")).status == 200
    headers = {"authorization": "Bearer k"}
    async with client.post("/v1/chat/completions", json=chat(), headers=headers) as response:
        assert response.status == 200


async def test_sigterm_finishes_what_runs_and_refuses_the_new(
    start_engine: Any, tiny_ladder: Path, tmp_path: Path, chat: Any
) -> None:
    running = start_engine("--model", f"large={tiny_ladder / 'large'}", listen=tmp_path / "s")
    await asyncio.to_thread(running.wait_ready)
    body = chat(max_tokens=LONG, ignore_eos=True, stream=True)
    async with (
        aiohttp.ClientSession(running.base, connector=running.connector()) as session,
        session.post("/v1/chat/completions", json=body) as response,
    ):
        await response.content.readuntil(b"\n\n")
        running.process.send_signal(signal.SIGTERM)
        await _until(lambda: _status(session, "/readyz", 503))
        async with session.post("/v1/chat/completions", json=chat()) as late:
            assert late.status == 503
            assert "retry-after" in late.headers
        rest = await response.content.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert await asyncio.to_thread(running.process.wait, 60) == 0


async def _status(session: aiohttp.ClientSession, path: str, wanted: int) -> bool:
    async with session.get(path) as response:
        return response.status == wanted


BROKEN = """
import sys
from gateway.engine import __main__ as program
from verifier.engine import Engine

steps = 0
step = Engine.step

def fails(self):
    global steps
    outputs = step(self)
    steps += len(outputs)
    if steps > 8:
        raise RuntimeError("secret detail at 0xdeadbeef")
    return outputs

Engine.step = fails
sys.exit(program.main())
"""


@pytest.fixture
def broken_engine(
    tiny_ladder: Path, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """An engine whose steps fail after a few, and its socket."""
    program, path = tmp_path / "broken.py", tmp_path / "s"
    program.write_text(BROKEN)
    model = f"large={tiny_ladder / 'large'}"
    command = [sys.executable, str(program), "--threads", "1", "--model", model]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    process = subprocess.Popen([*command, "--socket", str(path)], env=environment)
    yield process, path
    process.kill()
    process.wait()


async def test_an_engine_that_breaks_says_so_in_band_and_ends(
    broken_engine: Any, chat: Any
) -> None:
    process, path = broken_engine
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession("http://engine", connector=connector) as session:
        await _until(lambda: _answers(session), 240)
        whole, streamed = await asyncio.gather(*(_broken_off(session, chat, s) for s in (0, 1)))
    assert (whole[0], streamed[0]) == (503, 200)
    assert await asyncio.to_thread(process.wait, 60) == 70


async def _broken_off(session: aiohttp.ClientSession, chat: Any, stream: int) -> tuple[int, str]:
    """Status and text of a request that the engine does not survive."""
    body = chat(max_tokens=LONG, ignore_eos=True, stream=bool(stream))
    async with session.post("/v1/chat/completions", json=body) as response:
        text = await response.text()
    assert "0xdeadbeef" not in text
    assert "[DONE]" not in text
    last = text.strip().split("\n\n")[-1].removeprefix("data: ")
    assert json.loads(last)["error"]["code"] == "engine_stopped"
    return response.status, text


async def _answers(session: aiohttp.ClientSession) -> bool:
    try:
        return await _status(session, "/readyz", 200)
    except aiohttp.ClientError:
        return False


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model", "x=/nosuch/folder"], "/nosuch/folder"),
        (["--config", "/nosuch.toml", "--engine", "e"], "/nosuch.toml"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_status_78(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options, "--socket", "/nosuch/s"]) == 78
    said = capsys.readouterr().err
    assert says in said
    assert said.count("spillway engine:") == 1
    assert "Traceback" not in said
