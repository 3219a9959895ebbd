"""The exact-match response cache: it saves work when it can and never stands in the way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.cache.entry import Entry
from gateway.cache.key import Keys
from gateway.cache.rules import complete, deterministic, max_age_s
from gateway.errors import ApiError, StoreUnavailable
from gateway.generation import Job, Tier
from gateway.store.sealed import Seal
from gateway.store.store import Store

DEFAULT_TTL_S = 3600.0
DEFAULT_MAX_BYTES = 256 * 1024
_MAX_WRITES = 64  # under way at once; more are dropped
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What the cache said about one request. ``status`` is an RFC 9211 Cache-Status value."""

    status: str
    key: str | None = None  # None: the answer may not be kept either
    entry: Entry | None = None
    age_s: int = 0


class ResponseCache:
    """Answers that may be given again, by everything that could change them."""

    def __init__(
        self,
        store: Store,
        *,
        secret: bytes,
        ttl_s: float = DEFAULT_TTL_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._keys = Keys(secret)
        self._seal = Seal(secret)
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._writes: set[asyncio.Task[None]] = set()

    async def look(
        self, job: Job, tiers: Sequence[Tier], serves: Callable[[Entry], bool]
    ) -> Lookup:
        """Find an answer for ``job`` that any of ``tiers`` gave and that ``serves`` still.

        Raises:
            ApiError: 504, the caller wants a cached answer or none and there is none.
        """
        found = await self._look(job, tiers, serves)
        if found.entry is None and "only-if-cached" in job.cache_control:
            raise ApiError(
                504,
                "No cached answer, and the request says only-if-cached.",
                type="server_error",
                code="not_cached",
                headers={"cache-status": found.status},
            )
        return found

    async def _look(
        self, job: Job, tiers: Sequence[Tier], serves: Callable[[Entry], bool]
    ) -> Lookup:
        if not job.cacheable or not deterministic(job.body) or "no-store" in job.cache_control:
            return Lookup(status=_status("fwd=bypass"))
        key = self._keys.of(job, tiers)
        if key is None:
            return Lookup(status=_status("fwd=bypass", "detail=fingerprint"))
        if "no-cache" in job.cache_control:
            return Lookup(status=_status("fwd=request"), key=key)
        entry, reason = await self._fetch(key)
        if entry is None:
            return Lookup(status=_status("fwd=uri-miss", reason), key=key)
        age_s = max(0.0, self._clock() - entry.created)
        if age_s > _oldest(job, self._ttl_s):
            return Lookup(status=_status("fwd=stale"), key=key)
        if not serves(entry):
            return Lookup(status=_status("fwd=stale", "detail=policy"), key=key)
        status = _status("hit", f"ttl={int(self._ttl_s - age_s)}")
        return Lookup(status=status, key=key, entry=entry, age_s=int(age_s))

    def keep(self, lookup: Lookup, job: Job, tiers: Sequence[Tier], entry: Entry) -> None:
        """Store a complete answer in the background, or drop it: nothing waits for the store.

        Dropped too when a tier changed its fingerprint since the lookup.
        """
        if lookup.key is None or len(self._writes) >= _MAX_WRITES:
            return
        if not complete(job, entry.answer) or self._keys.of(job, tiers) != lookup.key:
            return
        payload = entry.encode()
        if len(payload) > self._max_bytes:
            return
        task = asyncio.create_task(self._put(lookup.key, self._seal.close(lookup.key, payload)))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    def now(self) -> float:
        """Unix seconds, for entries made now."""
        return float(self._clock())

    async def flush(self) -> None:
        """Wait until everything kept so far is stored, or failed to be."""
        while self._writes:
            await asyncio.wait(set(self._writes))

    async def _fetch(self, key: str) -> tuple[Entry | None, str]:
        """An entry, or none and why: nothing there, no store, or something that is no entry."""
        try:
            raw = await self._store.get(key)
        except StoreUnavailable:
            return None, "detail=unreachable"
        if raw is None:
            return None, ""
        payload = self._seal.open(key, raw)
        entry = None if payload is None else Entry.decode(payload)
        return entry, "" if entry else "detail=unreadable"

    async def _put(self, key: str, sealed: bytes) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self._store.set(key, sealed, ttl_s=self._ttl_s)


def _oldest(job: Job, ttl_s: float) -> float:
    wanted = max_age_s(job.cache_control)
    return ttl_s if wanted is None else min(wanted, ttl_s)


def _status(*parameters: str) -> str:
    return "; ".join(["spillway", *filter(None, parameters)])
