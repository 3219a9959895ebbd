"""Requests that every model refused, remembered for seconds: asking again changes nothing."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from gateway.errors import ApiError

_STATUSES = frozenset((400, 413, 422))
"""Refusals for what the request itself says. 429 and 5xx are about the moment, never about it."""


class Refusals:
    """The latest refusals of this process, by the request's cache key (so never across tenants)."""

    def __init__(
        self, ttl_s: float, *, most: int = 1024, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl_s = ttl_s
        self._most = most
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, ApiError]] = OrderedDict()

    def keep(self, key: str, error: ApiError) -> None:
        """Remember ``error``, if it would come again."""
        if self._ttl_s <= 0 or error.status not in _STATUSES:
            return
        self._kept[key] = (self._clock() + self._ttl_s, error)
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def of(self, key: str, cache_status: str) -> ApiError | None:
        """The refusal a request met moments ago, to be raised again."""
        until, error = self._kept.get(key, (0.0, None))
        if error is None or self._clock() >= until:
            self._kept.pop(key, None)
            return None
        return ApiError(
            error.status,
            error.message,
            type=error.type,
            param=error.param,
            code=error.code,
            headers={**error.headers, "cache-status": cache_status},
        )

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
