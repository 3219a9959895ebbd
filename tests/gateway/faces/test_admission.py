"""Places and the line in front of them are bounded, and nobody leaks one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.commands.serving import _drain
from gateway.errors import ApiError
from gateway.faces.admission import Admission
from gateway.wire.body import BodyBudget


async def hold(admission: Admission, release: asyncio.Event) -> None:
    async with admission.place():
        await release.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_line_is_served_in_turn_and_refuses_past_its_bound() -> None:
    admission, release = Admission(2, 1), asyncio.Event()
    tasks = [asyncio.create_task(hold(admission, release)) for _ in range(3)]
    await settle()
    assert (admission.running, admission.waiting) == (2, 1)
    with pytest.raises(ApiError) as caught:
        await hold(admission, release)
    assert caught.value.status == 429
    assert caught.value.headers["retry-after"] == "1"
    release.set()
    await asyncio.gather(*tasks)
    assert (admission.running, admission.waiting) == (0, 0)
    await hold(admission, release)


async def test_whoever_leaves_the_line_or_a_place_gives_it_back() -> None:
    admission, release = Admission(1, 1), asyncio.Event()
    inside, waiting = (asyncio.create_task(hold(admission, release)) for _ in range(2))
    await settle()
    waiting.cancel()
    inside.cancel()
    await asyncio.gather(inside, waiting, return_exceptions=True)
    assert (admission.running, admission.waiting) == (0, 0)
    release.set()
    await asyncio.wait_for(hold(admission, release), 5)


async def test_a_line_of_none_refuses_at_once_but_only_when_full() -> None:
    admission, release = Admission(1, 0), asyncio.Event()
    task = asyncio.create_task(hold(admission, release))
    await settle()
    with pytest.raises(ApiError):
        await hold(admission, release)
    release.set()
    await task
    await hold(admission, release)


async def test_stopping_waits_for_those_in_the_line_too() -> None:
    class Fronted:
        admission, draining = Admission(1, 1), False

    front: Any = Fronted()
    front.admission.waiting = 1
    stopping = asyncio.create_task(_drain(front, 30.0))
    await asyncio.sleep(0.1)
    assert front.draining and not stopping.done()
    front.admission.waiting = 0
    await stopping


async def test_bodies_that_are_still_arriving_are_bounded_all_together(start: Any) -> None:
    """Half of a body holds its bytes; another that has no room beside it is 429, not buffered."""
    asked = {"model": "auto", "prompt": "x" * 60_000}
    body = json.dumps(asked).encode()
    async with start(bodies=BodyBudget(100_000), admission=Admission(1, 0)) as served:
        held = served.front.bodies
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
        writer.write(head.encode() + b"\r\nConnection: close\r\n\r\n" + body[:50_000])
        await reach(lambda: held.held == 50_000)
        status, told = await served.post("/v1/completions", asked)
        assert (status, told["error"]["code"]) == (429, "rate_limit_exceeded")
        assert held.held == 50_000
        assert (await served.chat())[0] == 200  # small ones find room
        writer.write(body[50_000:])
        assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert held.held == 0
        assert (await served.post("/v1/completions", asked))[0] == 200


async def test_whoever_hangs_up_while_its_body_arrives_gives_its_bytes_back(start: Any) -> None:
    async with start(bodies=BodyBudget(100_000)) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n"
        writer.write(head + b"x" * 80_000)
        await reach(lambda: served.front.bodies.held == 80_000)
        writer.transport.abort()
        await reach(lambda: served.front.bodies.held == 0)


async def reach(state: Callable[[], bool]) -> None:
    for _ in range(3000):
        if state():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the state was never reached")
