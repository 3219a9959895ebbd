"""How many requests are answered at once, and how many may wait for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.errors import ApiError

_RETRY_AFTER_S = 1


class Admission:
    """A bounded number of places and a bounded line in front of them."""

    def __init__(self, places: int, line: int) -> None:
        self._free = asyncio.Semaphore(places)
        self._line = line
        self.running = 0
        self.waiting = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place.

        Raises:
            ApiError: 429 with `retry-after` when the line is full.
        """
        await self._enter()
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._free.release()

    async def _enter(self) -> None:
        if self._free.locked() and self.waiting >= self._line:
            raise ApiError(
                429,
                "The server is answering as many requests as it can. Please retry shortly.",
                type="rate_limit_error",
                code="rate_limit_exceeded",
                headers={"retry-after": str(_RETRY_AFTER_S)},
            )
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
