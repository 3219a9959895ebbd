"""The thread that steps the engine, and the way its outputs take to the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from gateway.errors import GatewayError
from verifier.errors import VerifierError
from verifier.request import GenerationRequest, StepOutput

MOST_PENDING = 4_096
"""Steps a reader may lag behind before its request is cancelled."""
LONGEST_STEP_S = 30.0
"""A step that runs for longer hangs, as far as anybody outside can tell."""
_log = logging.getLogger(__name__)


class EngineFailed(GatewayError):
    """The engine stopped in the middle of a request; the process is about to end."""


class Steps(Protocol):
    """What the worker needs of ``verifier.engine.Engine``."""

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request."""
        ...

    def cancel(self, request_id: str) -> None:
        """End a request."""
        ...

    def step(self) -> list[StepOutput]:
        """One iteration."""
        ...

    def has_work(self) -> bool:
        """Whether there is anything to step."""
        ...


class Outputs:
    """Everything the choices of one HTTP request produce, until the last of them has finished."""

    def __init__(self, requests: Sequence[GenerationRequest], limit: int) -> None:
        self._open = {(one.request_id, one.choice) for one in requests}
        self._queue: asyncio.Queue[StepOutput | EngineFailed] = asyncio.Queue(limit + 1)
        self._limit = limit

    def put(self, item: StepOutput | EngineFailed) -> bool:
        """Take one more in; False when the reader lags too far behind."""
        if self._queue.qsize() < self._limit:
            self._queue.put_nowait(item)
            return True
        if self._queue.qsize() == self._limit:
            self._queue.put_nowait(EngineFailed("the reader is too slow"))
        return False

    async def __aiter__(self) -> AsyncIterator[StepOutput]:
        while self._open:
            item = await self._queue.get()
            if isinstance(item, EngineFailed):
                raise item
            if item.error is not None:
                raise EngineFailed(item.error)
            if item.finish_reason is not None:
                self._open.discard((item.request_id, item.choice))
            yield item


class Worker:
    """Owns the engine's thread. All methods are called on the event loop."""

    def __init__(
        self,
        engine: Steps,
        *,
        most_pending: int = MOST_PENDING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._most_pending = most_pending
        self._boxes: dict[str, Outputs] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clock = clock
        self._began: float | None = None  # the running step
        self.failed = asyncio.Event()

    def start(self) -> None:
        """Begin to step."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Let the current step end, then end the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, 10)

    @property
    def active(self) -> int:
        """Prompts being answered."""
        return len(self._boxes)

    @property
    def stuck(self) -> bool:
        """Whether one step has run for longer than any should."""
        began = self._began  # the engine's thread may end the step at any moment
        return began is not None and self._clock() - began > LONGEST_STEP_S

    @contextmanager
    def running(self, requests: Sequence[GenerationRequest]) -> Iterator[Outputs]:
        """Submit ``requests``; however the block is left, nothing of them runs on.

        Raises:
            RequestRefused, QueueFull: from the engine; then none of them runs.
            EngineFailed: the engine has stopped.
        """
        if self.failed.is_set():
            raise EngineFailed("the engine has stopped")
        outputs = Outputs(requests, self._most_pending)
        ids = {one.request_id for one in requests}
        self._boxes |= dict.fromkeys(ids, outputs)
        try:
            for request in requests:
                self._engine.submit(request)
            self._wake.set()
            yield outputs
        finally:
            for request_id in ids:
                self._boxes.pop(request_id, None)
                self._cancel(request_id)

    def _cancel(self, request_id: str) -> None:
        self._engine.cancel(request_id)
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._step_or_sleep()
        except Exception as error:  # whatever it is, every running request must hear of it
            _log.exception("the engine failed")
            self._call(self._fail, error)

    def _step_or_sleep(self) -> None:
        if not self._engine.has_work():
            self._wake.wait()
            self._wake.clear()
            return
        self._began = self._clock()
        outputs = self._engine.step()
        self._began = None
        if outputs:
            self._call(self._deliver, outputs)

    def _call(self, callback: object, argument: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, argument)  # type: ignore[arg-type]

    def _deliver(self, outputs: Sequence[StepOutput]) -> None:
        for output in outputs:
            box = self._boxes.get(output.request_id)
            if box is not None and not box.put(output):
                self._cancel(output.request_id)

    def _fail(self, error: Exception) -> None:
        self.failed.set()
        kind = "an internal error" if not isinstance(error, VerifierError) else type(error).__name__
        for box in self._boxes.values():
            box.put(EngineFailed(f"the engine stopped: {kind}"))
