"""Outcomes are collected over real HTTP, once each, and survive busy and broken servers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.tiers import collect as collecting
from gateway.tiers.collect import Asking, Target, collect
from gateway.tiers.graded import CollectError, Prompt
from router_model.outcomes import read_outcomes

PROMPTS = [
    Prompt(request=f"{n} + {n}?", split="router-train", expected=str(2 * n), family="add")
    for n in range(12)
]


class Server:
    """Adds two equal numbers, wrongly from ten upwards; fails first as often as it is told to."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.failures: Counter[int] = Counter()
        self.at_once = self.most_at_once = 0
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.005)
        self.at_once -= 1
        for status in self.failures:
            if self.failures[status]:
                self.failures[status] -= 1
                return web.json_response({"error": {"code": "made_up"}}, status=status)
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        return web.json_response(self.completion(body))

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        number = int(body["messages"][-1]["content"].split()[0])
        text = str(2 * number if number < 10 else 0)
        choice: dict[str, Any] = {"message": {"content": text}, "finish_reason": "stop"}
        if body.get("logprobs"):
            tops = [{"logprob": -0.25}, {"logprob": -1.25}]
            entry = {"token": text, "logprob": -0.25, "top_logprobs": tops}
            choice["logprobs"] = {"content": [entry]}
        return {
            "choices": [choice],
            "usage": {"prompt_tokens": 5, "completion_tokens": 1},
            "system_fingerprint": f"fp-{body['model']}",
        }


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield found
    await runner.cleanup()


def targets(server: Server, *tiers: str) -> list[Target]:
    return [Target(tier=tier, url=server.url, model=tier) for tier in tiers]


async def test_every_tier_answers_every_prompt_and_is_graded(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "outcomes.jsonl"
    assert await collect(PROMPTS, targets(server, "brook", "river"), out) == 24
    outcomes = read_outcomes(out)
    assert Counter(each.tier for each in outcomes) == {"brook": 12, "river": 12}
    assert sum(each.correct for each in outcomes) == 20
    first = outcomes[0]
    assert first.logprobs == (-0.25,)
    assert first.margins == (1.0,)
    assert (first.tokens, first.prompt_tokens, first.family) == (1, 5, "add")
    assert first.fingerprint == "fp-brook"
    assert first.latency_ms is not None
    assert first.latency_ms > 0


async def test_answers_are_greedy_and_never_from_a_cache(server: Server, tmp_path: Path) -> None:
    await collect(PROMPTS[:1], targets(server, "brook"), tmp_path / "out")
    assert server.bodies[0]["temperature"] == 0
    assert server.bodies[0]["top_logprobs"] == 2
    assert server.headers[0]["Cache-Control"] == "no-store"


async def test_what_a_file_holds_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    await collect(PROMPTS[:5], targets(server, "brook"), out)
    assert await collect(PROMPTS, targets(server, "brook"), out) == 7
    assert len(server.bodies) == 12
    assert len(read_outcomes(out)) == 12


async def test_a_line_cut_off_by_a_crash_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    await collect(PROMPTS[:3], targets(server, "brook"), out)
    out.write_text(out.read_text()[:-20])
    assert await collect(PROMPTS[:3], targets(server, "brook"), out) == 1
    assert len(read_outcomes(out)) == 3


async def test_no_more_requests_run_at_once_than_allowed(server: Server, tmp_path: Path) -> None:
    asking = Asking(concurrency=3)
    await collect(PROMPTS, targets(server, "brook"), tmp_path / "out", asking=asking)
    assert server.most_at_once == 3


async def test_a_busy_server_is_asked_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "PAUSE_S", 0.001)
    server.failures.update({429: 2, 503: 2})
    assert await collect(PROMPTS, targets(server, "brook"), tmp_path / "out") == 12


async def test_a_refusal_stops_and_says_why_but_keeps_what_was_answered(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    await collect(PROMPTS[:2], targets(server, "brook"), out)
    server.failures[401] = 1
    with pytest.raises(CollectError, match=r"tier 'brook'.*status 401.*made_up"):
        await collect(PROMPTS, targets(server, "brook"), out, asking=Asking(concurrency=1))
    assert len(read_outcomes(out)) == 2


async def test_a_prompt_too_long_for_a_tier_is_answered_wrongly(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(request: web.Request) -> web.Response:
        error = {"code": "context_length_exceeded", "message": "got 3000 tokens"}
        return web.json_response({"error": error}, status=400)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    socket = str(tmp_path / "engine.sock")
    await web.UnixSite(runner, socket).start()
    out = tmp_path / "out"
    await collect(PROMPTS[:1], [Target(tier="a", url=f"unix:{socket}", model="a")], out)
    await runner.cleanup()
    (outcome,) = read_outcomes(out)
    assert not outcome.correct
    assert outcome.logprobs is None


async def test_a_server_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "PAUSE_S", 0.001)
    nowhere = Target(tier="brook", url=f"unix:{tmp_path}/none.sock", model="brook")
    with pytest.raises(CollectError, match=r"none\.sock"):
        await collect(PROMPTS[:1], [nowhere], tmp_path / "out")


async def test_a_key_is_read_from_the_environment_and_sent(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(tier="brook", url=server.url, model="brook", api_key_env="TIER_KEY")
    with pytest.raises(CollectError, match="TIER_KEY"):
        await collect(PROMPTS[:1], [target], tmp_path / "out")
    monkeypatch.setenv("TIER_KEY", "sk-1")
    await collect(PROMPTS[:1], [target], tmp_path / "out")
    assert server.headers[0]["Authorization"] == "Bearer sk-1"


async def test_progress_counts_to_the_end(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int, int]] = []
    await collect(
        PROMPTS, targets(server, "brook"), tmp_path / "out", progress=lambda *it: seen.append(it)
    )
    assert [done for _, done, _, _ in seen] == list(range(1, 13))
    assert seen[-1] == ("brook", 12, 12, 10)


async def test_an_answer_that_is_no_completion_is_an_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "completion", lambda self, body: {"choices": []})
    with pytest.raises(CollectError, match="expected a chat completion"):
        await collect(PROMPTS[:1], targets(server, "brook"), tmp_path / "out")


async def test_lines_are_plain_json(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    await collect(PROMPTS[:2], targets(server, "brook"), out)
    assert all(json.loads(line)["prompt"].endswith("?") for line in out.read_text().splitlines())
