"""Refusals of the admin API: RFC 9457 problem documents."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

from gateway.errors import GatewayError
from gateway.generation import Json

_TITLES = {
    400: "Bad request",
    401: "Who are you?",
    403: "Not from here",
    404: "No such resource",
    405: "Method not allowed",
    412: "The policy has changed",
    413: "Too large",
    422: "Thresholds refused",
    428: "If-Match required",
    503: "The shared store does not answer",
}


class Problem(GatewayError):
    """A refusal with a status; ``more`` are extension members such as ``field``."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: Json,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more

    def response(self) -> web.Response:
        """As an HTTP response."""
        title = _TITLES.get(self.status, "Refused")
        document = {
            "type": "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }
        return web.Response(
            status=self.status,
            body=json.dumps(document).encode(),
            headers=self.headers,
            content_type="application/problem+json",
        )
