"""What a tier's status other than 200 means: the client's fault, ours, or a tier that is unwell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gateway.errors import ApiError, GatewayError, TierUnavailable

_TRANSIENT = frozenset((408, 409, 425, 429))
_OUR_FAULT = frozenset((401, 403, 404, 405))
"""Wrong key, wrong address, wrong model name: configuration, which no client can mend."""
LONGEST_MESSAGE = 2_000


class TierBusy(TierUnavailable):
    """The tier is well but has too much to do."""


def refusal(tier: str, status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
    """The error to raise for a refused request."""
    error = _error_object(body)
    message = str(error.get("message") or f"status {status}")[:LONGEST_MESSAGE]
    if 400 <= status < 500 and status not in _TRANSIENT | _OUR_FAULT:
        return ApiError(
            status,
            message,
            type=_text(error.get("type")) or "invalid_request_error",
            param=_text(error.get("param")),
            code=_text(error.get("code")),
        )
    kind = TierBusy if status == 429 else TierUnavailable
    return kind(tier, f"{status}: {message}", retry_after_s=retry_after_s(headers))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds asked for by ``retry-after-ms`` or ``retry-after``; dates and nonsense are None."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            wait_s = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        if 0 <= wait_s < float("inf"):
            return wait_s
    return None


def _error_object(body: bytes) -> dict[str, Any]:
    """The error of OpenAI's shape; of FastAPI's and vLLM's older ones at least the message."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return {"message": body[:200].decode("utf-8", "replace")}
    if not isinstance(data, dict):
        return {}
    error = data.get("error", data)
    if isinstance(error, dict):
        return {"message": error.get("detail"), **error}
    return {"message": error}


def _text(value: Any) -> str | None:
    return value[:LONGEST_MESSAGE] if isinstance(value, str) else None
