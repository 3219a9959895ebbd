"""A client that leaves takes its work along; one that does not read is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.generation import AnswerEvent, Delta, Job, Started

PATIENCE_S = 20.0


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for signals nobody
            await asyncio.sleep(0.005)


async def silent(job: Job) -> AsyncIterator[AnswerEvent]:
    await asyncio.sleep(3600)
    yield Started(tier="brook", policy_version=1)


async def silent_after_a_word(job: Job) -> AsyncIterator[AnswerEvent]:
    yield Started(tier="brook", policy_version=1)
    yield Delta(text="Hel")
    await asyncio.sleep(3600)


async def endless(job: Job) -> AsyncIterator[AnswerEvent]:
    yield Started(tier="brook", policy_version=1)
    while True:
        yield Delta(text="x" * 10_000)
        await asyncio.sleep(0)


def raw_request(**fields: Any) -> bytes:
    body = json.dumps({"model": "auto", "prompt": "hi", **fields}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@pytest.mark.parametrize("prompt", ["hi", ["a", "b", "c"]])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [silent, silent_after_a_word, endless])
async def test_leaving_closes_the_answer_whatever_it_was_doing(
    served: Any, script: Any, stream: bool, prompt: Any
) -> None:
    served.answerer.script = script
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(raw_request(stream=stream, prompt=prompt))
    await until(lambda: served.answerer.open == (1 if prompt == "hi" else 3))
    writer.transport.abort()
    await until(lambda: served.answerer.open == 0 and served.front.admission.running == 0)


async def test_leaving_while_waiting_in_line_gives_the_place_back(start: Any) -> None:
    from gateway.faces.admission import Admission

    async with start(admission=Admission(1, 5)) as served:
        async with served.front.admission.place():
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(raw_request())
            await until(lambda: served.front.admission.waiting == 1)
            writer.transport.abort()
            await until(lambda: served.front.admission.waiting == 0)
        assert (await served.chat())[0] == 200


async def test_a_reader_that_stalls_is_cut_off(start: Any) -> None:
    async with start(write_timeout_s=0.1) as served:
        served.answerer.script = endless
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
        writer.write(raw_request(stream=True))
        await until(lambda: served.answerer.open == 1)
        await until(lambda: served.answerer.open == 0)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                while await reader.read(65536):
                    pass
        writer.close()


async def test_silence_is_filled_with_comments_and_the_stream_still_parses(start: Any) -> None:
    async def slow(job: Job) -> AsyncIterator[AnswerEvent]:
        yield Started(tier="brook", policy_version=1)
        await asyncio.sleep(3600)

    async with start(heartbeat_s=0.01) as served:
        served.answerer.script = slow
        body = {"model": "auto", "prompt": "hi", "stream": True}
        url = served.url + "/v1/completions"
        async with served.http.post(url, json=body) as response, asyncio.timeout(PATIENCE_S):
            beats = [await response.content.readline() for _ in range(6)]
        assert beats == [b": \n", b"\n"] * 3
