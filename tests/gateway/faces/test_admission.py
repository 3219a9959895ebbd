"""Places and the line in front of them are bounded, and nobody leaks one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.commands.serving import _drain
from gateway.errors import ApiError
from gateway.faces.admission import Admission


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
