"""The hand-off between the engine's thread and the loop, with an engine that does as it is told."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway.engine.server import Service, create_engine_app
from gateway.engine.worker import LONGEST_STEP_S, EngineFailed, Worker
from verifier.errors import QueueFull
from verifier.request import GenerationRequest, SamplingParams, StepOutput, StopRules


class Puppet:
    """An engine that emits one token a step for each request, up to its ``max_tokens``."""

    def __init__(self, *, places: int = 100) -> None:
        self.left: dict[tuple[str, int], int] = {}
        self.cancelled: deque[str] = deque()
        self.places = places
        self.fail = False
        self._lock = threading.Lock()

    def submit(self, request: GenerationRequest) -> None:
        with self._lock:
            if len(self.left) >= self.places:
                raise QueueFull("full")
            self.left[request.request_id, request.choice] = request.stops.max_tokens

    def cancel(self, request_id: str) -> None:
        with self._lock:
            self.cancelled.append(request_id)
            self.left = {key: n for key, n in self.left.items() if key[0] != request_id}

    def has_work(self) -> bool:
        return bool(self.left)

    def step(self) -> list[StepOutput]:
        if self.fail:
            raise RuntimeError("broken")
        with self._lock:
            outputs = []
            for key in list(self.left):
                self.left[key] -= 1
                done = self.left[key] == 0
                if done:
                    del self.left[key]
                reason: Any = "length" if done else None
                outputs.append(
                    StepOutput(
                        request_id=key[0],
                        choice=key[1],
                        tokens=(1,),
                        text="x",
                        finish_reason=reason,
                    )
                )
            return outputs


def _request(name: str, tokens: int, choice: int = 0) -> GenerationRequest:
    return GenerationRequest(
        request_id=name,
        model="m",
        prompt=(1,),
        sampling=SamplingParams(),
        stops=StopRules(max_tokens=tokens),
        choice=choice,
    )


async def test_outputs_arrive_in_order_until_every_choice_has_finished() -> None:
    worker = Worker(Puppet())
    worker.start()
    with worker.running([_request("a", 3), _request("a", 5, choice=1)]) as outputs:
        found = [output async for output in outputs]
    assert [one.choice for one in found].count(0) == 3
    assert [one.choice for one in found].count(1) == 5
    assert worker.active == 0
    await worker.stop()


async def test_leaving_early_cancels_the_request() -> None:
    engine = Puppet()
    worker = Worker(engine)
    worker.start()
    with worker.running([_request("a", 10**9)]) as outputs:
        async for _ in outputs:
            break
    assert "a" in engine.cancelled
    assert not engine.has_work()
    await worker.stop()


async def test_a_refused_choice_takes_its_brothers_along() -> None:
    engine = Puppet(places=1)
    worker = Worker(engine)
    worker.start()
    both = [_request("a", 10**9), _request("a", 10**9, choice=1)]
    with pytest.raises(QueueFull), worker.running(both):
        pass
    assert not engine.has_work()
    assert worker.active == 0
    await worker.stop()


async def test_a_reader_that_lags_is_cut_off_and_its_memory_bounded() -> None:
    engine = Puppet()
    worker = Worker(engine, most_pending=10)
    worker.start()
    with worker.running([_request("slow", 10**9)]) as outputs:
        while engine.has_work():  # noqa: ASYNC110 - it is no part of the loop
            await asyncio.sleep(0.01)
        with pytest.raises(EngineFailed, match="too slow"):
            assert len([output async for output in outputs]) <= 10
    await worker.stop()


async def test_a_failing_step_reaches_every_running_request_and_later_ones() -> None:
    engine = Puppet()
    worker = Worker(engine)
    worker.start()

    async def read(name: str) -> None:
        with worker.running([_request(name, 10**9)]) as outputs:
            async for _ in outputs:
                pass

    readers = [asyncio.create_task(read(name)) for name in "abc"]
    await asyncio.sleep(0.05)
    engine.fail = True
    found = await asyncio.gather(*readers, return_exceptions=True)
    assert [type(one) for one in found] == [EngineFailed] * 3
    assert worker.failed.is_set()
    with pytest.raises(EngineFailed):
        await read("late")


async def test_a_step_that_does_not_end_is_noticed_and_one_that_ends_is_forgiven() -> None:
    engine, now = Puppet(), 100.0
    entered, leave = threading.Event(), threading.Event()
    step = engine.step

    def hang() -> list[StepOutput]:
        entered.set()
        leave.wait(10)
        return step()

    engine.step = hang  # type: ignore[method-assign]
    worker = Worker(engine, clock=lambda: now)
    worker.start()
    assert not worker.stuck
    with worker.running([_request("a", 1)]) as outputs:
        await asyncio.to_thread(entered.wait, 10)
        now += LONGEST_STEP_S
        assert not worker.stuck
        now += 0.1
        assert worker.stuck
        leave.set()
        assert [one.finish_reason async for one in outputs] == ["length"]
    assert not worker.stuck
    now += 2 * LONGEST_STEP_S
    assert not worker.stuck, "nothing runs"
    await worker.stop()


async def test_an_engine_with_a_stuck_step_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(Puppet())
    app = create_engine_app(Service(SimpleNamespace(close=int), worker, {}), max_body_bytes=99)  # type: ignore[arg-type]
    async with TestClient(TestServer(app)) as client:
        found = []
        for stuck in (False, True, False):
            monkeypatch.setattr(Worker, "stuck", stuck)
            async with client.get("/readyz") as response:
                found.append((response.status, (await response.json())["status"]))
    assert found == [(200, "ready"), (503, "stuck"), (200, "ready")]


async def test_an_idle_worker_sleeps() -> None:
    engine = Puppet()
    asked = 0

    def has_work() -> bool:
        nonlocal asked
        asked += 1
        return bool(engine.left)

    engine.has_work = has_work  # type: ignore[method-assign]
    worker = Worker(engine)
    worker.start()
    await asyncio.sleep(0.2)
    assert asked <= 2
    await worker.stop()
