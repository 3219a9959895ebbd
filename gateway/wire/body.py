"""Reading a request body: plain JSON only, of bounded size, within bounded time."""

from __future__ import annotations

import asyncio

from aiohttp import web

from gateway.errors import ApiError

BODY_TIMEOUT_S = 30.0


async def read_body(request: web.Request, *, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """The bytes of a JSON body.

    Raises:
        ApiError: 415 compressed or not JSON, 413 too large, 408 too slow, 400 cut short.
    """
    _check_headers(request)
    limit = request.app._client_max_size
    if (request.content_length or 0) > limit:
        raise too_large(limit)
    try:
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except TimeoutError:
        raise ApiError(408, f"The body did not arrive within {timeout_s:g} seconds.") from None
    except web.HTTPRequestEntityTooLarge:
        raise too_large(limit) from None
    except web.RequestPayloadError:
        raise ApiError(400, "The body could not be read.") from None


def too_large(limit: int) -> ApiError:
    """413 with the limit."""
    return ApiError(
        413, f"The body is larger than the {limit} bytes allowed.", code="request_too_large"
    )


def _check_headers(request: web.Request) -> None:
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise ApiError(415, "The body is compressed; expected it without Content-Encoding.")
    if "Content-Type" in request.headers and not _is_json(request.content_type):
        raise ApiError(415, "The body's Content-Type is not JSON; expected application/json.")


def _is_json(content_type: str) -> bool:
    return content_type in ("application/json", "text/json") or content_type.endswith("+json")
