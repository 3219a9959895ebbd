"""The answers of several jobs as one stream of events, each with the number of its job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from gateway.generation import Answerer, AnswerEvent, Job

_AT_ONCE = 8  # jobs of one request answered side by side
_AHEAD = 64  # events that may wait for a slow reader

Events = AsyncGenerator[tuple[int, AnswerEvent]]


async def answers(answerer: Answerer, jobs: Sequence[Job]) -> Events:
    """Events of all jobs as they come. The first failure ends them all; so does closing this."""
    if len(jobs) > 1:
        async with aclosing(_SideBySide(answerer).events(jobs)) as merged:
            async for one in merged:
                yield one
        return
    async with aclosing(_one(answerer, jobs[0])) as events:
        async for event in events:
            yield 0, event


async def _one(answerer: Answerer, job: Job) -> AsyncGenerator[AnswerEvent]:
    answer = answerer.answer(job)
    try:
        async for event in answer:
            yield event
    finally:
        close = getattr(answer, "aclose", None)
        if close is not None:
            await close()


@dataclass(slots=True)
class _SideBySide:
    """Events need credit to enter the queue; ends and failures never wait behind them."""

    answerer: Answerer
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    credit: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AHEAD))
    queue: asyncio.Queue[tuple[int, AnswerEvent | Exception | None]] = field(
        default_factory=asyncio.Queue
    )

    async def events(self, jobs: Sequence[Job]) -> Events:
        tasks = {asyncio.create_task(self._feed(at, job)) for at, job in enumerate(jobs)}
        try:
            left = len(tasks)
            while left:
                at, event = await self.queue.get()
                if isinstance(event, Exception):
                    raise event
                if event is None:
                    left -= 1
                    continue
                self.credit.release()
                yield at, event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _feed(self, at: int, job: Job) -> None:
        try:
            async with self.turns, aclosing(_one(self.answerer, job)) as events:
                async for event in events:
                    await self.credit.acquire()
                    self.queue.put_nowait((at, event))
        except Exception as error:
            self.queue.put_nowait((at, error))
        else:
            self.queue.put_nowait((at, None))
