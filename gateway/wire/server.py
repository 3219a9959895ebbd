"""The HTTP listener of every server: parser errors in OpenAI's shape, slow headers cut off."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from gateway.errors import ApiError
from gateway.wire.middleware import error_response, request_id

HEADER_TIMEOUT_S = 10.0
_log = logging.getLogger(__name__)


class Connection(RequestHandler):
    """One client connection. aiohttp itself answers what it cannot parse, as plain text."""

    __slots__ = ("_header_timer",)
    header_timeout_s = HEADER_TIMEOUT_S

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._header_timer = self._loop.call_later(self.header_timeout_s, self._cut_if_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._header_timer.cancel()
        super().connection_lost(exc)

    def _cut_if_silent(self) -> None:
        """Headers that trickle in would hold the connection for the whole keep-alive time."""
        if not self._request_count and self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer without repeating the offending bytes, then close."""
        if request.writer.output_size > 0:
            raise ConnectionError("part of a response is sent already")
        name = request_id(None)
        response = error_response(_told(status, name))
        response.headers.update({"x-request-id": name, "Server": "spillway"})
        response.force_close()
        if status >= 500:
            _log.error("request %s failed unexpectedly", name, exc_info=exc)
        return response


class Listener(web.AppRunner):
    """Runs an app over ``Connection``; bind it with aiohttp's sites."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _ServerOfConnections(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,
        )


class _ServerOfConnections(web.Server):
    def __call__(self) -> RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


def listener(
    app: web.Application, *, keepalive_s: float = 75.0, shutdown_s: float = 20.0
) -> Listener:
    """A runner with what every server here needs: a client that leaves cancels its handler."""
    options: dict[str, Any] = {
        "handler_cancellation": True,
        "access_log": None,
        "keepalive_timeout": keepalive_s,
        "shutdown_timeout": shutdown_s,
    }
    return Listener(app, **options)


def _told(status: int, name: str) -> ApiError:
    if status >= 500:
        message = f"The server had an error. It is logged under request {name}."
        return ApiError(status, message, type="server_error")
    return ApiError(status, "The HTTP request could not be parsed.")
