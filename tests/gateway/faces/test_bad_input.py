"""Whatever is sent: a 4xx in OpenAI's shape that names the parameter, and the next one works."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import aiohttp
import pytest

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
USER = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "auto", "messages": USER, **fields}).encode()


def text(**fields: Any) -> bytes:
    return json.dumps({"model": "auto", "prompt": "hi", **fields}).encode()


TABLE: list[tuple[str, bytes, int, str | None]] = [
    (CHAT, b"{", 400, None),
    (CHAT, b"", 400, None),
    (CHAT, b"[]", 400, None),
    (CHAT, b"null", 400, None),
    (CHAT, b'{"model": "\xff"}', 400, None),
    (CHAT, b"[" * 200_000, 400, None),
    (CHAT, b'{"a":' * 50_000, 400, None),
    (CHAT, b'{"model": "auto", "model": "river"}', 400, "model"),
    (CHAT, b"{}", 400, "model"),
    (CHAT, b'{"messages": [{"role": "user", "content": "hi"}]}', 400, "model"),
    (CHAT, chat(model=None), 400, "model"),
    (CHAT, chat(model=7), 400, "model"),
    (CHAT, chat(model="nope"), 404, "model"),
    (CHAT, chat(model="x" * 100), 404, "model"),
    (CHAT, chat(messages=[]), 400, "messages"),
    (CHAT, chat(messages=None), 400, "messages"),
    (CHAT, chat(messages="hi"), 400, "messages"),
    (CHAT, chat(messages=[1]), 400, "messages[0]"),
    (CHAT, chat(messages=[{"role": "user"}]), 400, "messages[0].content"),
    (CHAT, chat(messages=[{"role": "user", "content": 3}]), 400, "messages[0].content"),
    (CHAT, chat(messages=[{"role": "user", "content": None}]), 400, "messages[0].content"),
    (CHAT, chat(messages=[{"role": "user", "content": []}]), 400, "messages[0].content"),
    (CHAT, chat(messages=[*USER, {"role": "tool", "content": ""}]), 400, "messages[1].role"),
    (CHAT, chat(messages=[{**USER[0], "x": 1}]), 400, "messages[0].x"),
    (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        400,
        "messages[0].content[0].type",
    ),
    (CHAT, b'{"model":"auto","messages":[{"role":"user","content":"\\ud800"}]}', 400, None),
    (CHAT, chat(temperature=2.5), 400, "temperature"),
    (CHAT, chat(temperature="1"), 400, "temperature"),
    (CHAT, chat(temperature=True), 400, "temperature"),
    (CHAT, chat(temperature=float("nan")), 400, "temperature"),
    (CHAT, chat(temperature=float("inf")), 400, "temperature"),
    (CHAT, chat(temperature=0).replace(b": 0", b": 1e999"), 400, "temperature"),
    (CHAT, chat(temperature=10**400), 400, "temperature"),
    (CHAT, chat(seed=0).replace(b": 0", b": " + b"9" * 5000), 400, None),
    (CHAT, chat(top_p=0), 400, "top_p"),
    (CHAT, chat(top_p=1.1), 400, "top_p"),
    (CHAT, chat(presence_penalty=-3), 400, "presence_penalty"),
    (CHAT, chat(n=0), 400, "n"),
    (CHAT, chat(n=129), 400, "n"),
    (CHAT, chat(n=1.0), 400, "n"),
    (CHAT, chat(n=2**70), 400, "n"),
    (CHAT, chat(seed=2**63), 400, "seed"),
    (CHAT, chat(max_tokens=0), 400, "max_tokens"),
    (CHAT, chat(max_tokens=-1), 400, "max_tokens"),
    (CHAT, chat(max_tokens=1, max_completion_tokens=1), 400, "max_tokens"),
    (CHAT, chat(top_logprobs=3), 400, "top_logprobs"),
    (CHAT, chat(logprobs=True, top_logprobs=21), 400, "top_logprobs"),
    (CHAT, chat(stop=["a"] * 5), 400, "stop"),
    (CHAT, chat(stop=["a"] * 10_000), 400, "stop"),
    (CHAT, chat(stop="a" * 1000), 400, "stop"),
    (CHAT, chat(stop=["a", ""]), 400, "stop[1]"),
    (CHAT, chat(logit_bias={"5": 101}), 400, "logit_bias.5"),
    (CHAT, chat(logit_bias={"a": 1}), 400, "logit_bias.a"),
    (CHAT, chat(logit_bias={str(at): 1 for at in range(301)}), 400, "logit_bias"),
    (CHAT, chat(metadata={"k": 1}), 400, "metadata.k"),
    (CHAT, chat(metadata={str(at): "v" for at in range(17)}), 400, "metadata"),
    (CHAT, chat(stream_options={"include_usage": True}), 400, "stream_options"),
    (CHAT, chat(stream=True, stream_options={"x": 1}), 400, "stream_options.x"),
    (CHAT, chat(stream="yes"), 400, "stream"),
    (CHAT, chat(prediction={"type": "content"}), 400, "prediction.content"),
    (CHAT, chat(prediction="text"), 400, "prediction"),
    (CHAT, chat(tools=[{"type": "function"}]), 400, "tools"),
    (CHAT, chat(tool_choice="required"), 400, "tool_choice"),
    (CHAT, chat(functions=[{}]), 400, "functions"),
    (CHAT, chat(response_format={"type": "json_object"}), 400, "response_format"),
    (CHAT, chat(modalities=["text", "audio"]), 400, "modalities"),
    (CHAT, chat(audio={}), 400, "audio"),
    (CHAT, chat(web_search_options={}), 400, "web_search_options"),
    (CHAT, chat(store=True), 400, "store"),
    (CHAT, chat(guided_regex="a+"), 400, "guided_regex"),
    (CHAT, chat(unheard_of=1), 400, "unheard_of"),
    (CHAT, chat(**{"é" * 300: 1}), 400, "é" * 64),
    (CHAT, chat(spillway={"x": 1}), 400, "spillway.x"),
    (CHAT, chat(spillway=[]), 400, "spillway"),
    (CHAT, chat(spillway={"receipt": 1}), 400, "spillway.receipt"),
    (CHAT, chat(spillway={"drafts": []}), 400, "spillway.drafts"),
    (CHAT, chat(spillway={"speculation": {"mode": "x"}}), 400, "spillway.speculation.mode"),
    (CHAT, chat(spillway={"speculation": {"max_nodes": 0}}), 400, "spillway.speculation.max_nodes"),
    (CHAT, chat(spillway={"speculation": {"y": 0}}), 400, "spillway.speculation.y"),
    (TEXT, b'{"model": "auto"}', 400, "prompt"),
    (TEXT, text(prompt=None), 400, "prompt"),
    (TEXT, text(prompt=[]), 400, "prompt"),
    (TEXT, text(prompt=[[]]), 400, "prompt[0]"),
    (TEXT, text(prompt=[-1]), 400, "prompt[0]"),
    (TEXT, text(prompt=["a", 1]), 400, "prompt[0]"),
    (TEXT, text(prompt=[1, 2]), 400, "prompt"),  # tokens, for nobody in particular
    (TEXT, text(prompt=["a"] * 129), 400, "prompt"),
    (TEXT, text(prompt=["a"] * 100, n=2), 400, "n"),
    (TEXT, text(logprobs=6), 400, "logprobs"),
    (TEXT, text(logprobs=True), 400, "logprobs"),
    (TEXT, text(best_of=2), 400, "best_of"),
    (TEXT, text(suffix="x"), 400, "suffix"),
    (TEXT, text(echo=1), 400, "echo"),
    (TEXT, text(echo=True, logprobs=1), 400, "echo"),  # by nobody in particular
    (TEXT, text(max_tokens=0), 400, "max_tokens"),
    (TEXT, text(messages=USER), 400, "messages"),
]


def in_shape(body: Any) -> bool:
    error = body["error"]
    return (
        set(body) == {"error"}
        and set(error) == {"message", "type", "param", "code"}
        and isinstance(error["message"], str)
        and len(error["message"]) < 500
    )


async def test_each_bad_request_is_refused_by_name_and_the_next_one_works(served: Any) -> None:
    wrong = []
    for path, raw, status, param in TABLE:
        headers = {"content-type": "application/json"}
        got, body = await served.post(path, raw, headers=headers)
        told = body.get("error", {}).get("param", "?")
        if (got, told) != (status, param) or not in_shape(body) or not await _works(served):
            wrong.append((raw[:200], status, param, got, body))
    assert wrong == []
    assert all(job.body == {"messages": USER} for job in served.answerer.jobs)


async def test_a_body_of_ten_megabytes_is_413_whether_its_length_is_told_or_not(
    served: Any,
) -> None:
    async def drip() -> Any:
        for _ in range(160):
            yield b"x" * 65536

    for body in (b"x" * 10_485_760, drip()):
        headers = {"content-type": "application/json"}
        async with served.http.post(served.url + CHAT, data=body, headers=headers) as response:
            told = await response.json()
        assert response.status == 413
        assert in_shape(told)
        assert "1048576" in told["error"]["message"]
        assert await _works(served)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json", "content-encoding": "nonsense"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "application/json", "content-encoding": "identity"}, 200),
    ],
)
async def test_only_plain_json_is_read(served: Any, headers: dict[str, str], status: int) -> None:
    got, body = await served.post(CHAT, chat(), headers=headers)
    assert got == status
    assert status == 200 or in_shape(body)


async def test_a_body_without_a_content_type_is_taken_as_json(served: Any) -> None:
    skip = {"skip_auto_headers": ["content-type"]}
    got, _ = await served.post(CHAT, chat(), **skip)
    assert got == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_supported"),
        ("DELETE", "/v1/models", 405, "method_not_supported"),
        ("PATCH", "/v1/chat/completions", 405, "method_not_supported"),
        ("GET", "/v1/models/nope", 404, "model_not_found"),
        ("GET", "/v1/models/a%2Fb", 404, "model_not_found"),
        ("GET", "/" + "x" * 4000, 404, "unknown_url"),
        ("GET", "/%ff%fe", 404, "unknown_url"),
    ],
)
async def test_an_unknown_route_or_method_is_refused_in_shape(
    served: Any, method: str, path: str, status: int, code: str
) -> None:
    async with served.http.request(method, served.url + path) as response:
        body = await response.json()
    assert (response.status, body["error"]["code"]) == (status, code)
    assert in_shape(body)
    assert ("Allow" in response.headers) == (status == 405)
    assert await _works(served)


async def test_a_body_cut_short_or_too_slow_frees_its_place(start: Any) -> None:
    async with start(body_timeout_s=0.05) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert b" 408 " in head.splitlines()[0]
        writer.close()
        served.front.body_timeout_s = 60.0
        assert await _works(served)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00secret HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nsecret-header: " + b"a" * 9000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_in_shape_without_being_repeated(
    served: Any, raw: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(raw)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert in_shape(json.loads(body))
    assert b"x-request-id: req_" in head
    assert b"secret" not in answer
    assert b"aiohttp" not in answer
    assert await _works(served)


async def test_mutated_bodies_are_never_a_server_error(served: Any) -> None:
    rng = random.Random(7)
    whole = chat(n=2, stop=["a"], logit_bias={"5": 1}, spillway={"receipt": True}, seed=3)
    statuses = set()
    for _ in range(300):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(raw))
            raw[at : at + rng.randint(0, 2)] = rng.choice(
                [b"", b'"', b"}", b"9", b"\xff", b"[null]"]
            )
        headers = {"content-type": "application/json"}
        got, body = await served.post(CHAT, bytes(raw), headers=headers)
        statuses.add(got)
        assert got == 200 or (got in (400, 404) and in_shape(body)), (bytes(raw), body)
    assert statuses >= {200, 400}
    assert await _works(served)


async def _works(served: Any) -> bool:
    try:
        status, body = await served.post(CHAT, chat(), headers={"content-type": "application/json"})
    except aiohttp.ClientError:
        return False
    return status == 200 and body["choices"][0]["message"]["content"].startswith("Hello")
