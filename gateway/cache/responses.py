"""The exact-match response cache: it saves work when it can and never stands in the way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gateway.cache.counts import Counts, Event
from gateway.cache.entry import Entry
from gateway.cache.key import Keys, parts_of
from gateway.cache.recent import Recent
from gateway.cache.refusals import Refusals
from gateway.cache.rules import complete, deterministic, max_age_s
from gateway.errors import ApiError, StoreUnavailable
from gateway.generation import Job, Tier
from gateway.store.sealed import Seal
from gateway.store.store import Store

DEFAULT_TTL_S = 3600.0
DEFAULT_MAX_BYTES = 256 * 1024
SHOWN_DIGITS = 32  # of a key's digest, in receipts
_MAX_WRITES = 64  # under way at once; more are dropped
_ATTEMPTS = 3  # against other writers of the same key
Serves = Callable[[Entry], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What the cache said about one request. ``status`` is an RFC 9211 Cache-Status value."""

    status: str
    event: Event
    key: str | None = None  # None: the answer may not be kept either
    repeatable: bool = False  # whether asking twice gives the same answer
    entry: Entry | None = None
    age_s: int = 0
    seen: bytes | None = None  # what the store holds under the key, as far as is known

    @property
    def digest(self) -> str | None:
        """How an operator may name the entry."""
        parts = None if self.key is None else parts_of(self.key)
        return None if parts is None else parts[1][:SHOWN_DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is kept, for how long, and how much of it."""

    ttl_s: float = DEFAULT_TTL_S
    max_bytes: int = DEFAULT_MAX_BYTES
    sampled: bool = False
    refusals_s: float = 0.0
    recent_s: float = 1.0  # an answer is not fetched again so soon
    responses: bool = True  # False: nothing is read or written; requests still have keys


class ResponseCache:
    """Answers that may be given again, by everything that could change them."""

    def __init__(
        self,
        store: Store,
        *,
        secret: bytes,
        rules: Rules | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.rules = rules or Rules()
        self.counts = Counts()
        self.refusals = Refusals(self.rules.refusals_s)
        self.recent = Recent(ttl_s=self.rules.recent_s)
        self.keys = Keys(secret)
        self._store = store
        self._seal = Seal(secret)
        self._clock = clock
        self._writes: set[asyncio.Task[None]] = set()

    async def look(self, job: Job, tiers: Sequence[Tier], serves: Serves) -> Lookup:
        """Find an answer for ``job`` that any of ``tiers`` gave and that ``serves`` still.

        Raises:
            ApiError: 504, the caller wants a cached answer or none and there is none; or what every
                tier said to this very request seconds ago.
        """
        found = await self._look(job, tiers, serves)
        self._count(job, found.event)
        if found.entry is None and "only-if-cached" in job.cache_control:
            raise ApiError(
                504,
                "No cached answer, and the request says only-if-cached.",
                type="server_error",
                code="not_cached",
                headers={"cache-status": found.status},
            )
        return found

    async def _look(self, job: Job, tiers: Sequence[Tier], serves: Serves) -> Lookup:
        repeatable = deterministic(job.body)
        wanted = repeatable or self.rules.sampled
        if not job.cacheable or not wanted or "no-store" in job.cache_control:
            return Lookup(status=_status("fwd=bypass"), event="bypass")
        key = self.keys.of(job, tiers)
        if key is None:
            return Lookup(status=_status("fwd=bypass", "detail=fingerprint"), event="bypass")
        if "no-cache" in job.cache_control:
            status = _status("fwd=request")
            return Lookup(status=status, event="bypass", key=key, repeatable=repeatable)
        self._refuse_again(job, key)
        found = await self._find(job, key, serves)
        return replace(found, key=key, repeatable=repeatable)

    def _refuse_again(self, job: Job, key: str) -> None:
        refusal = self.refusals.of(key, _status("hit", "detail=refusal"))
        if refusal is not None:
            self._count(job, "refusal")
            raise refusal

    async def _find(self, job: Job, key: str, serves: Serves) -> Lookup:
        if not self.rules.responses:
            return Lookup(status=_status("fwd=bypass"), event="bypass")
        entry = self.recent.get(key)
        if entry is not None:
            found = self._judged(job, entry, serves, None)
            if found.entry is not None:
                return found
        seen, entry, reason = await self._fetch(key)
        if entry is None:
            return Lookup(status=_status("fwd=uri-miss", reason), event="miss", seen=seen)
        return self._judged(job, entry, serves, seen)

    def _judged(self, job: Job, entry: Entry, serves: Serves, seen: bytes | None) -> Lookup:
        """What is to be said of an entry that was found."""
        age_s = max(0.0, self._clock() - entry.created)
        if age_s > _oldest(job, self.rules.ttl_s):
            return Lookup(status=_status("fwd=stale"), event="stale", seen=seen)
        if not serves(entry):
            return Lookup(status=_status("fwd=stale", "detail=policy"), event="stale", seen=seen)
        status = _status("hit", f"ttl={int(self.rules.ttl_s - age_s)}")
        return Lookup(status=status, event="hit", entry=entry, age_s=int(age_s))

    def keep(
        self, lookup: Lookup, job: Job, tiers: Sequence[Tier], entry: Entry, serves: Serves
    ) -> None:
        """Store a complete answer in the background, or drop it: nothing waits for the store.

        Dropped too when a tier changed its fingerprint since the lookup. An answer of a larger
        tier that ``serves`` stays in its place; a weaker one is replaced.
        """
        if lookup.key is None or not self.rules.responses:
            return
        if not complete(job, entry.answer) or self.keys.of(job, tiers) != lookup.key:
            return
        payload = entry.encode()
        if len(payload) > self.rules.max_bytes or len(self._writes) >= _MAX_WRITES:
            self._count(job, "not_stored")
            return
        ladder = [tier.name for tier in tiers]
        task = asyncio.create_task(
            self._put(job, lookup, payload, lambda old: self._stays(old, entry, ladder, serves))
        )
        task.set_name(lookup.key)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    def collapsed(self, job: Job) -> str:
        """Count a request that shares the answer of another, and its Cache-Status."""
        self._count(job, "collapsed")
        return _status("fwd=uri-miss", "collapsed")

    def now(self) -> float:
        """Unix seconds, for entries made now."""
        return float(self._clock())

    def forget(self) -> None:
        """Forget what is remembered beside the store."""
        self.recent.clear()
        self.refusals.clear()

    async def written(self, key: str) -> None:
        """Wait until what is being kept under ``key`` is stored, or failed to be."""
        mine = {task for task in self._writes if task.get_name() == key}
        if mine:
            await asyncio.wait(mine)

    async def flush(self) -> None:
        """Wait until everything kept so far is stored, or failed to be."""
        while self._writes:
            await asyncio.wait(set(self._writes))

    async def _fetch(self, key: str) -> tuple[bytes | None, Entry | None, str]:
        """What is stored, and the entry it is, or why it is none: no store, or garbage."""
        try:
            raw = await self._store.get(key)
        except StoreUnavailable:
            return None, None, "detail=unreachable"
        if raw is None:
            return None, None, ""
        payload = self._seal.open(key, raw)
        entry = None if payload is None else Entry.decode(payload)
        if entry is not None:
            self.recent.put(key, entry, len(raw))
        return raw, entry, "" if entry else "detail=unreadable"

    async def _put(
        self, job: Job, lookup: Lookup, payload: bytes, stays: Callable[[Entry], bool]
    ) -> None:
        """Replace what the lookup saw; if that changed, look again whether to."""
        assert lookup.key is not None
        key, seen = lookup.key, lookup.seen
        sealed = self._seal.close(key, payload)
        with contextlib.suppress(StoreUnavailable):
            for _ in range(_ATTEMPTS):
                if await self._store.swap(key, expected=seen, value=sealed, ttl_s=self.rules.ttl_s):
                    self.recent.drop(key)
                    self._count(job, "stored")
                    return
                seen, old, _ = await self._fetch(key)
                if old is not None and stays(old):
                    return
        self._count(job, "not_stored")

    def _stays(self, old: Entry, new: Entry, ladder: list[str], serves: Serves) -> bool:
        """Whether the entry that somebody else wrote meanwhile is the better one."""
        fresh = self._clock() - old.created <= self.rules.ttl_s
        if not fresh or old.answer.tier not in ladder or not serves(old):
            return False
        return ladder.index(old.answer.tier) > ladder.index(new.answer.tier)

    def _count(self, job: Job, event: Event) -> None:
        self.counts.add(self.keys.tenant(job.identity.tenant), job.model, event)


def _oldest(job: Job, ttl_s: float) -> float:
    wanted = max_age_s(job.cache_control)
    return ttl_s if wanted is None else min(wanted, ttl_s)


def _status(*parameters: str) -> str:
    return "; ".join(["spillway", *filter(None, parameters)])
