"""Server-sent events towards one client: heartbeats in silence, stalled readers cut off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Self

from aiohttp import web

from gateway.wire.middleware import REQUEST_ID, STARTED, as_api_error
from gateway.wire.render import HEARTBEAT, event

HEARTBEAT_S = 15.0
WRITE_TIMEOUT_S = 30.0
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, private",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}


class ClientGone(ConnectionResetError):
    """The client left, or stopped reading. Nobody is there to be told."""


class EventStream:
    """A response body of events: ``open``, ``send``, then ``close`` or ``abandon``."""

    def __init__(self, request: web.Request, *, heartbeat_s: float, write_timeout_s: float) -> None:
        self._request = request
        self._response = web.StreamResponse(headers=_HEADERS)
        self._heartbeat_s = heartbeat_s
        self._write_timeout_s = write_timeout_s
        self._sent_at = 0.0
        self._beating: asyncio.Task[None] | None = None

    async def open(self, headers: Mapping[str, str]) -> Self:
        """Send the status line; from here on errors can only be told in-band."""
        self._response.headers.update(headers)
        self._request[STARTED] = True
        await self._response.prepare(self._request)
        self._sent_at = asyncio.get_running_loop().time()
        self._beating = asyncio.create_task(self._beat())
        return self

    async def send(self, frame: bytes) -> None:
        """Write whole events; waits while the client's buffers are full, but not for ever.

        Raises:
            ClientGone: it hung up, or read nothing for ``write_timeout_s``.
        """
        await self._bounded(self._response.write(frame))
        self._sent_at = asyncio.get_running_loop().time()

    async def close(self) -> web.StreamResponse:
        """End the body. Errors: as ``send``."""
        await self.abandon()
        await self._bounded(self._response.write_eof())
        return self._response

    async def _bounded(self, writing: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await writing
        except TimeoutError:
            self._abort()
            raise ClientGone("the client stopped reading") from None
        except ConnectionError:
            raise ClientGone("the client hung up") from None

    async def abandon(self) -> None:
        """Stop writing."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait({self._beating})
            self._beating = None

    async def _beat(self) -> None:
        """A comment whenever nothing was sent for a while: proxies keep the connection."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ClientGone):
            while True:
                wait_s = self._sent_at + self._heartbeat_s - loop.time()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                else:
                    await self.send(HEARTBEAT)

    def _abort(self) -> None:
        transport = self._request.transport
        if transport is not None:
            transport.abort()


async def send_events(
    request: web.Request,
    frames: AsyncIterator[bytes],
    headers: Mapping[str, str],
    *,
    heartbeat_s: float = HEARTBEAT_S,
    write_timeout_s: float = WRITE_TIMEOUT_S,
) -> web.StreamResponse:
    """Send ``frames`` after a 200. What fails on the way is told in-band, with no end mark."""
    stream = EventStream(request, heartbeat_s=heartbeat_s, write_timeout_s=write_timeout_s)
    await stream.open(headers)
    try:
        try:
            async for frame in frames:
                await stream.send(frame)
        except ClientGone:
            raise
        except Exception as error:
            await stream.send(event(as_api_error(error, request[REQUEST_ID]).body()))
        return await stream.close()
    finally:
        await stream.abandon()
