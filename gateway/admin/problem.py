"""Refusals of the admin API: RFC 9457 problem documents that OpenAI's clients can read too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Self

from aiohttp import web

from gateway.errors import ApiError, GatewayError
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
_CODES = {
    401: "invalid_admin_token",
    403: "forbidden",
    404: "unknown_url",
    405: "method_not_supported",
    412: "stale_policy",
    413: "request_too_large",
    422: "invalid_value",
    428: "missing_precondition",
    503: "store_unavailable",
}
_TYPES = {403: "permission_error", 503: "server_error"}


class Problem(GatewayError):
    """A refusal with a status; ``more`` are extension members such as ``field``.

    ``code`` is what the member `error` says, None for the usual one of the status.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        code: str | None = None,
        **more: Json,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.code = code or _CODES.get(status)
        self.more = more

    @classmethod
    def of(cls, error: ApiError) -> Self:
        """The same refusal as a problem."""
        return cls(error.status, error.message, headers=error.headers, code=error.code)

    def response(self) -> web.Response:
        """As an HTTP response."""
        title = _TITLES.get(self.status, "Refused")
        document = {
            "type": "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            **self.more,
            **self._as_api_error().body(),
        }
        return web.Response(
            status=self.status,
            body=json.dumps(document).encode(),
            headers=self.headers,
            content_type="application/problem+json",
        )

    def _as_api_error(self) -> ApiError:
        """For clients that look for `error` and know no problems."""
        return ApiError(
            self.status,
            self.detail,
            type=_TYPES.get(self.status, "invalid_request_error"),
            param=self.more.get("field"),
            code=self.code,
        )
