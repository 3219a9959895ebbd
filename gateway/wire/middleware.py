"""The outermost layer of every server: request ids, timing, and each error in OpenAI's shape."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.errors import ApiError, TierBroken, TierUnavailable
from gateway.wire.render import dump

REQUEST_ID = web.RequestKey("request_id", str)
ARRIVED = web.RequestKey("arrived", float)  # time.monotonic()
STARTED = web.RequestKey("started", bool)  # the status line is out: errors must go in-band
MORE_HEADERS: web.AppKey[Callable[[], Mapping[str, str]]] = web.AppKey("more_headers")

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}", re.ASCII)
_log = logging.getLogger(__name__)


def install(app: web.Application) -> None:
    """Make this the outermost middleware of ``app``; call it before adding others."""
    app.middlewares.insert(0, answer_errors)
    app.on_response_prepare.append(_mark)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever goes wrong into a status and a body that OpenAI's clients understand."""
    request[ARRIVED] = time.monotonic()
    request[REQUEST_ID] = request_id(request.headers.get("x-request-id"))
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return error_response(_from_router(request, error))
    except Exception as error:
        if request.get(STARTED):
            raise
        return error_response(as_api_error(error, request[REQUEST_ID]))


async def _mark(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "spillway"  # aiohttp would tell its version
    response.headers["x-request-id"] = request[REQUEST_ID]
    took_ms = (time.monotonic() - request[ARRIVED]) * 1000
    response.headers["openai-processing-ms"] = str(int(took_ms))
    more = request.app.get(MORE_HEADERS)
    if more is not None:
        response.headers.update(more())


def request_id(offered: str | None) -> str:
    """The client's own id when it is harmless to repeat, else a fresh one."""
    if offered is not None and _SANE_ID.fullmatch(offered):
        return offered
    return "req_" + secrets.token_hex(16)


def as_api_error(error: Exception, asked: str) -> ApiError:
    """What a client may know of ``error``. The unexpected is logged, and told to nobody."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, TierUnavailable):
        wait_s = 1.0 if error.retry_after_s is None else error.retry_after_s
        return ApiError(
            503,
            f"The model {error.tier!r} cannot answer now.",
            type="server_error",
            code="tier_unavailable",
            headers={"retry-after": str(max(1, round(wait_s)))},
        )
    if isinstance(error, TierBroken):
        return ApiError(
            502, "The model stopped before its answer was complete.", type="server_error"
        )
    _log.error("request %s failed unexpectedly", asked, exc_info=error)
    return ApiError(
        500, f"The server had an error. It is logged under request {asked}.", type="server_error"
    )


def _from_router(request: web.Request, error: web.HTTPException) -> ApiError:
    asked = f"{request.method[:16]} {request.rel_url.raw_path[:128]}"
    if error.status == 404:
        return ApiError(404, f"Invalid URL ({asked})", code="unknown_url")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return ApiError(
            405,
            f"Not allowed: {asked}; expected one of {allowed}.",
            code="method_not_supported",
            headers={"Allow": allowed},
        )
    if error.status == 413:
        return ApiError(
            413,
            f"The body is larger than the {request.app._client_max_size} bytes allowed.",
            code="request_too_large",
        )
    return ApiError(error.status, error.reason)


def error_response(error: ApiError) -> web.Response:
    """``error`` as a response."""
    return web.Response(
        body=dump(error.body()),
        status=error.status,
        headers=error.headers,
        content_type="application/json",
    )
