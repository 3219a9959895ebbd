"""Hostile requests: each is a 4xx that names its parameter, and nobody else notices."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CANARY = {
    "model": "large",
    "messages": [{"role": "user", "content": "the lazy canary sings"}],
    "max_tokens": 40,
    "temperature": 0.8,
    "seed": 5,
    "ignore_eos": True,
    "logprobs": True,
    "stream": True,
}
LONG = "fox " * 3000
_SOLO: list[Any] = []  # what the canary sings when nobody disturbs it


def chat(**fields: Any) -> bytes:
    messages = [{"role": "user", "content": "the quick brown fox"}]
    return json.dumps({"model": "large", "messages": messages, "max_tokens": 4, **fields}).encode()


def text(**fields: Any) -> bytes:
    return json.dumps({"model": "large", "prompt": "hi", "max_tokens": 4, **fields}).encode()


def steered(**fields: Any) -> bytes:
    return chat(spillway={"speculation": fields})


def predicted(content: Any) -> bytes:
    return chat(prediction={"type": "content", "content": content})


CASES: list[tuple[str, str, bytes, str | None]] = [
    ("temperature NaN", CHAT, chat(temperature=float("nan")), "temperature"),
    ("temperature infinite", CHAT, chat(temperature=-float("inf")), "temperature"),
    (
        "temperature 1e999",
        CHAT,
        chat().replace(b'"max_tokens": 4', b'"temperature": 1e999'),
        "temperature",
    ),
    ("temperature high", CHAT, chat(temperature=1e6), "temperature"),
    ("temperature text", CHAT, chat(temperature="0"), "temperature"),
    ("top_p 0", CHAT, chat(top_p=0), "top_p"),
    ("top_k huge", CHAT, chat(top_k=2**31), "top_k"),
    ("top_k huger", CHAT, chat(top_k=10**400), "top_k"),
    ("top_k -2", CHAT, chat(top_k=-2), "top_k"),
    ("min_p", CHAT, chat(min_p=1.5), "min_p"),
    ("presence", CHAT, chat(presence_penalty=-2.5), "presence_penalty"),
    ("frequency", CHAT, chat(frequency_penalty=1e308), "frequency_penalty"),
    ("repetition negative", CHAT, chat(repetition_penalty=-1), "repetition_penalty"),
    ("repetition tiny", CHAT, chat(repetition_penalty=1e-320), "repetition_penalty"),
    ("repetition zero", CHAT, chat(repetition_penalty=0), "repetition_penalty"),
    ("n 2**31", CHAT, chat(n=2**31), "n"),
    ("n 0", CHAT, chat(n=0), "n"),
    ("prompts times n", TEXT, text(prompt=["a"] * 128, n=128), "n"),
    ("10,000 stops", CHAT, chat(stop=["x"] * 10_000), "stop"),
    ("1 MB of stop", CHAT, chat(stop="x" * 2**20), "stop"),
    ("1 MB in a stop", TEXT, text(stop=["x" * 2**20]), "stop[0]"),
    ("empty stop", CHAT, chat(stop=[""]), "stop[0]"),
    ("stop ids", CHAT, chat(stop_token_ids=[-1]), "stop_token_ids[0]"),
    ("many stop ids", CHAT, chat(stop_token_ids=list(range(10_000))), "stop_token_ids"),
    ("unknown bias", CHAT, chat(logit_bias={"99999999": 1}), "logit_bias"),
    ("bias no id", CHAT, chat(logit_bias={"fox": 1}), "logit_bias.fox"),
    ("bias too large", CHAT, chat(logit_bias={"5": 101}), "logit_bias.5"),
    ("bias NaN", CHAT, chat(logit_bias={"5": float("nan")}), "logit_bias.5"),
    ("NaN somewhere", CHAT, chat(user=float("nan")), "user"),
    ("NaN nowhere", CHAT, chat(tools=float("nan")), "tools"),
    ("NaN deep", CHAT, chat(messages=[{"role": "user", "content": float("nan")}]), None),
    ("bias null", CHAT, chat(logit_bias={"5": None}), "logit_bias.5"),
    ("many biases", CHAT, chat(logit_bias={str(at): 1 for at in range(400)}), "logit_bias"),
    ("huge max_tokens", CHAT, chat(max_tokens=2**31 - 1), "max_tokens"),
    ("negative max_tokens", CHAT, chat(max_tokens=-1), "max_tokens"),
    ("min above max", CHAT, chat(min_tokens=5), "min_tokens"),
    ("min_tokens huge", CHAT, chat(min_tokens=2**40), "min_tokens"),
    ("seed", CHAT, chat(seed=2**64), "seed"),
    ("top_logprobs", CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    ("prompt too long", CHAT, chat(messages=[{"role": "user", "content": LONG}]), "messages"),
    ("prediction too long", CHAT, predicted(LONG), "prediction"),
    ("prediction of no kind", CHAT, predicted(5), "prediction.content"),
    ("text prediction", TEXT, text(prediction={"type": "content", "content": LONG}), "prediction"),
    ("unknown source", CHAT, steered(sources=["tea leaves"]), "spillway.speculation.sources"),
    ("max_nodes -1", CHAT, steered(max_nodes=-1), "spillway.speculation.max_nodes"),
    ("max_nodes 200", CHAT, steered(max_nodes=200), "spillway.speculation.max_nodes"),
    ("max_nodes 2**40", CHAT, steered(max_nodes=2**40), "spillway.speculation.max_nodes"),
    ("unknown mode", CHAT, steered(mode="hard"), "spillway.speculation.mode"),
    ("unknown field", CHAT, chat(spillway={"fast": 1}), "spillway.fast"),
    ("17 drafts", CHAT, chat(spillway={"drafts": [{"kind": "near_hit", "text": "x"}] * 17}), None),
    ("predicted", CHAT, chat(spillway={"predicted_tokens": -1}), "spillway.predicted_tokens"),
    ("token ids", TEXT, text(prompt=[5, 2**30]), "prompt"),
    ("negative ids", TEXT, text(prompt=[-5]), "prompt[0]"),
    ("max_tokens 0", TEXT, text(max_tokens=0), "max_tokens"),
    ("deep", CHAT, b'{"a":' * 100_000, None),
    ("deep arrays", TEXT, text(prompt=None).replace(b"null", b"[" * 90_000), None),
    ("one object too many", CHAT, b'{"a":[' + b"{}," * 30_000 + b"{}]}", None),
    ("repeated key", CHAT, b'{"model":"large","model":"small"}', "model"),
]


async def _sung(response: aiohttp.ClientResponse, events: list[Any]) -> list[Any]:
    """Every event of a stream as far as it is the same whenever it is asked."""
    for line in (await response.read()).split(b"\n\n"):
        if line and line != b"data: [DONE]":
            events.append(json.loads(line.removeprefix(b"data: ")))
    assert line == b""
    return [
        (entry["token"], entry["logprob"])
        for event in events
        for choice in event["choices"]
        for entry in (choice["logprobs"] or {}).get("content", ())
    ]


async def _canary(client: Any) -> list[Any]:
    async with client.session.post(CHAT, json=CANARY) as response:
        return await _sung(response, [])


@pytest.mark.parametrize(
    ("path", "raw", "param"), [one[1:] for one in CASES], ids=[one[0] for one in CASES]
)
async def test_it_is_refused_by_name_while_others_go_on(
    client: Any, path: str, raw: bytes, param: str | None
) -> None:
    solo = _SOLO or await _canary(client)
    _SOLO[:] = solo
    headers = {"content-type": "application/json"}
    async with client.session.post(CHAT, json=CANARY) as singing:
        first = json.loads((await singing.content.readuntil(b"\n\n")).removeprefix(b"data: "))
        async with client.session.post(path, data=raw, headers=headers) as response:
            found = await response.json()
            assert 400 <= response.status < 500, found
        song = await _sung(singing, [first])
    assert set(found["error"]) == {"message", "type", "param", "code"}
    assert len(found["error"]["message"]) < 500
    if param is not None:
        assert found["error"]["param"] == param
    assert [token for token, _ in song] == [token for token, _ in solo]
    assert [score for _, score in song] == pytest.approx([score for _, score in solo], abs=1e-3)
    assert len(song) == 40
