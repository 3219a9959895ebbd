"""One answer being generated, and everybody who reads it from its beginning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine

from gateway.cascade.answer import MAX_ANSWER_CHARS
from gateway.errors import GatewayError, TierBroken
from gateway.generation import AnswerEvent, Delta, Finished

_AHEAD = 256  # events generated before the fastest reader takes them


class NotShared(GatewayError):
    """What became of this generation concerns only the one who began it: ask for yourself."""


class Flight:
    """Events of one answer, kept until the last reader is through. One task writes them.

    ``land`` is called when nobody can join any more: at the last event, or if it ``lingers`` when
    the writing task ends. The first reader is whose request it was. When it leaves, the others go
    on reading; when nobody is left the generation is cancelled, unless it is ``wanted_elsewhere``.
    """

    def __init__(self, land: Callable[[], None], *, lingers: bool = True) -> None:
        self._lingers = lingers
        self.wanted_elsewhere: Callable[[], bool] = lambda: False
        self.readers = 0
        self.own = False  # whether what became of it concerns only its first reader
        self.follows = False  # whether another replica generates it
        self._events: list[AnswerEvent] = []
        self._dropped = 0  # events at the beginning that nobody will read again
        self._room_chars = MAX_ANSWER_CHARS
        self._fastest = 0
        self._land = land
        self._whole = False
        self._ended = False
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._events)

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Run ``work``, which calls ``put``."""
        self._task = asyncio.create_task(self._run(work))
        self._task.add_done_callback(lambda _: self._land())

    async def put(self, event: AnswerEvent) -> None:
        """The next event of the answer. Waits while readers are far behind.

        Raises:
            TierBroken: the answer is longer than can be kept for several readers.
        """
        self._events.append(event)
        if isinstance(event, Finished):
            self._whole = True
            if not self._lingers:
                self._land()
        self._make_room(event)
        self._tell()
        while self.readers and self._dropped + len(self._events) - self._fastest > _AHEAD:
            self._room.clear()
            await self._room.wait()

    def keep_to_the_first(self) -> None:
        """What comes is for the first reader alone; others have read nothing yet."""
        self.own = True
        self._tell()

    async def read(self, *, first: bool) -> AsyncGenerator[AnswerEvent]:
        """Every event from the beginning.

        Raises:
            NotShared: there is nothing here for anyone but the first reader.
            GatewayError: as the generation ended.
        """
        self.readers += 1
        try:
            at = 0
            while True:
                if at == 0 and not first and self._useless():
                    raise NotShared("this generation is not shared")
                if at < self._dropped + len(self._events):
                    event = self._events[at - self._dropped]
                    at += 1
                    self._read_up_to(at)
                    yield event
                    if isinstance(event, Finished):
                        return
                elif self._ended:
                    raise self._error or NotShared("this generation was given up")
                else:
                    await self._news.wait()
        finally:
            self.readers -= 1
            await self._left()

    async def aclose(self) -> None:
        """Cancel the generation."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception as error:
            self._error = error
        finally:
            self._ended = True
            self._tell()

    def _useless(self) -> bool:
        """Whether someone who has read nothing yet had better ask anew."""
        broken = self._ended and self._error is not None and bool(self._events)
        return self.own or self._dropped > 0 or broken

    def _make_room(self, event: AnswerEvent) -> None:
        """Past the bound nobody may join, and the only reader's past is forgotten."""
        self._room_chars -= len(event.text) if isinstance(event, Delta) else 0
        if self._room_chars >= 0:
            return
        if self.readers > 1:
            raise TierBroken("the answer is longer than can be kept for several readers")
        self._land()
        del self._events[: self._fastest - self._dropped]
        self._dropped = self._fastest

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _read_up_to(self, at: int) -> None:
        if at > self._fastest:
            self._fastest = at
            self._room.set()

    async def _left(self) -> None:
        self._room.set()
        going = not (self._whole or self._ended)
        if self.readers == 0 and going and not self.wanted_elsewhere():
            await self.aclose()
