"""Everything a request can ask gives the same over both endpoints, drafted or not, through the
gateway or not."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.app import create_app
from gateway.config import Config
from gateway.wire.server import listener

TEXT = "the quick brown fox jumps over the lazy dog the quick brown"
FIELDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature": {"temperature": 1.2},
    "top_p": {"top_p": 0.8},
    "top_k": {"top_k": 20},
    "min_p": {"min_p": 0.5},
    "all filters": {"temperature": 1.5, "top_k": 50, "top_p": 0.9, "min_p": 0.01},
    "presence": {"presence_penalty": 1.5, "temperature": 0.7},
    "frequency": {"frequency_penalty": -1.0, "temperature": 0.7},
    "repetition": {"repetition_penalty": 1.4, "temperature": 0},
    "bias": {"logit_bias": {"70": 30, "71": 29.5, "8": -100}},
    "stop": {"stop": ["e", "o"], "max_tokens": 40},
    "stop ids": {"stop_token_ids": list(range(40, 100)), "max_tokens": 40},
    "min_tokens": {"min_tokens": 8, "stop_token_ids": list(range(40, 100))},
    "max_tokens": {"max_tokens": 1},
    "ignore_eos": {"ignore_eos": True, "logit_bias": {"0": 100}, "max_tokens": 6},
    "n": {"n": 3},
    "logprobs of many": {"top": 5},
}


@contextlib.asynccontextmanager
async def gateway_over(base: str, folder: Path) -> AsyncIterator[aiohttp.ClientSession]:
    config = Config.model_validate(
        {
            "engines": [{"name": "e", "url": base}],
            "tiers": [{"name": name, "url": "engine:e"} for name in ("small", "large")],
            "state_dir": folder,
        }
    )
    runner = listener(create_app(config), shutdown_s=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
            while (await session.get("/readyz")).status != 200:
                pass
            yield session
    finally:
        await runner.cleanup()


def body_of(endpoint: str, fields: dict[str, Any], **more: Any) -> tuple[str, dict[str, Any]]:
    given = {"model": "large", "max_tokens": 16, "seed": 7, **fields}
    top = given.pop("top", 1)
    if endpoint == "chat":
        messages = [{"role": "user", "content": TEXT}]
        asked = {"messages": messages, "logprobs": True, "top_logprobs": top}
    else:
        asked = {"prompt": TEXT, "logprobs": top}
    path = "/v1/chat/completions" if endpoint == "chat" else "/v1/completions"
    return path, {**given, **asked, **more}


async def ask(session: aiohttp.ClientSession, path: str, body: Any) -> tuple[Any, Any]:
    """What a client is to see the same however it was computed, and the whole body."""
    async with session.post(path, json=body) as response:
        found = await response.json()
        assert response.status == 200, found
    choices = [
        (one.get("message") or one["text"], one["finish_reason"], tokens_of(one["logprobs"]))
        for one in found["choices"]
    ]
    usage = found["usage"]
    return (choices, usage["prompt_tokens"], usage["completion_tokens"]), found


def tokens_of(logprobs: Any) -> list[str]:
    if "tokens" in logprobs:
        assert len(logprobs["token_logprobs"]) == len(logprobs["tokens"])
        return list(logprobs["tokens"])
    return [entry["token"] for entry in logprobs["content"]]


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
async def test_every_field_gives_the_same_drafted_or_not_through_the_gateway_or_not(
    client: Any, shared_engine: Any, tmp_path: Path, endpoint: str
) -> None:
    drafted = 0
    async with gateway_over(shared_engine.base, tmp_path) as session:
        for name, fields in FIELDS.items():
            off = {"spillway": {"speculation": {"mode": "off"}}}
            plain, found = await ask(client.session, *body_of(endpoint, fields, **off))
            first = found["choices"][0]
            text = first["message"]["content"] if endpoint == "chat" else first["text"]
            steered = {
                "spillway": {"receipt": True, "speculation": {"mode": "fixed", "max_nodes": 12}},
                "prediction": {"type": "content", "content": text or "fox"},
            }
            path, body = body_of(endpoint, fields, **steered)
            direct, found = await ask(client.session, path, body)
            assert direct == plain, name
            drafted += found["spillway"]["drafted"]
            through, found = await ask(session, path, body)
            assert through == plain, name
            assert found["spillway"]["tier"] == "large"
            tokens = sum(len(tokens) for _, _, tokens in plain[0])
            assert tokens == plain[2], "one log-prob for each token of usage"
    assert drafted > 0


async def test_fields_do_something(client: Any) -> None:
    """Each shows in the text; else the comparison above would compare nothing."""
    bare, _ = await ask(client.session, *body_of("completions", {}))
    without = {"logprobs of many"}
    for name, fields in FIELDS.items():
        found, _ = await ask(client.session, *body_of("completions", fields))
        assert (found != bare) == (name not in without), name


async def test_the_gateway_shows_what_its_engines_count(
    shared_engine: Any, client: Any, tmp_path: Path
) -> None:
    async with gateway_over(shared_engine.base, tmp_path) as session:
        await ask(session, *body_of("chat", {}))
        async with session.get("/metrics/engines") as response:
            assert response.status == 200
            page = await response.text()
        steps = await client.metric("spillway_engine_steps_total", model="large")
        assert f'spillway_engine_steps_total{{engine="e",model="large"}} {steps}' in page
        assert 'spillway_engine_up{engine="e"} 1.0' in page


async def test_a_scored_prompt_comes_through_the_gateway(
    shared_engine: Any, client: Any, tmp_path: Path
) -> None:
    asked = {"model": "large", "prompt": [TEXT, "fox"], "echo": True, "logprobs": 2, "seed": 1}
    async with gateway_over(shared_engine.base, tmp_path) as session:
        for longest in (3, 0):
            body = {**asked, "max_tokens": longest}
            _, direct = await ask(client.session, "/v1/completions", body)
            _, through = await ask(session, "/v1/completions", body)
            for one, other in zip(direct["choices"], through["choices"], strict=True):
                assert one["text"] == other["text"]
                assert one["logprobs"]["tokens"] == other["logprobs"]["tokens"]
                assert other["logprobs"]["token_logprobs"][0] is None
                assert other["logprobs"]["top_logprobs"][0] is None
                assert one["logprobs"]["token_logprobs"][1:] == pytest.approx(
                    other["logprobs"]["token_logprobs"][1:], abs=1e-3
                )
