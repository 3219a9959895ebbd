"""Reading a request body: plain JSON only, of bounded size, within bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from gateway.errors import ApiError

BODY_TIMEOUT_S = 30.0


class BodyBudget:
    """How many bytes of bodies may be in memory at once, from their arrival until they are parsed.

    Bytes count as they come, not as they are announced: a client that says much and sends
    little takes nothing from the others.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """A function to count the bytes of one body with; on leaving they are given back.

        It raises ApiError, 429 with `retry-after`, for bytes there is no room for.
        """
        mine = 0

        def take(count: int) -> None:
            nonlocal mine
            if self.held + count > self._most:
                raise _no_room()
            self.held += count
            mine += count

        try:
            yield take
        finally:
            self.held -= mine


async def read_body(
    request: web.Request,
    *,
    timeout_s: float = BODY_TIMEOUT_S,
    take: Callable[[int], None] = lambda _: None,
) -> bytes:
    """The bytes of a JSON body; ``take`` hears of each piece before it is kept.

    Raises:
        ApiError: 415 compressed or not JSON, 413 too large, 408 too slow, 400 cut short.
    """
    _check_headers(request)
    limit = request.app._client_max_size
    if (request.content_length or 0) > limit:
        raise too_large(limit)
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(request, limit, take)
    except TimeoutError:
        raise ApiError(408, f"The body did not arrive within {timeout_s:g} seconds.") from None
    except web.RequestPayloadError:
        raise ApiError(400, "The body could not be read.") from None


async def _read(request: web.Request, limit: int, take: Callable[[int], None]) -> bytes:
    body = bytearray()
    async for piece in request.content.iter_any():
        if len(body) + len(piece) > limit:
            raise too_large(limit)
        take(len(piece))
        body += piece
    return bytes(body)


def too_large(limit: int) -> ApiError:
    """413 with the limit."""
    return ApiError(
        413, f"The body is larger than the {limit} bytes allowed.", code="request_too_large"
    )


def _no_room() -> ApiError:
    return ApiError(
        429,
        "The server is reading as much as it can hold. Please retry shortly.",
        type="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"retry-after": "1"},
    )


def _check_headers(request: web.Request) -> None:
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ApiError(415, "The body is compressed; expected it without Content-Encoding.")
    if "Content-Type" in request.headers and not _is_json(request.content_type):
        raise ApiError(415, "The body's Content-Type is not JSON; expected application/json.")


def _is_json(content_type: str) -> bool:
    return content_type in ("application/json", "text/json") or content_type.endswith("+json")
