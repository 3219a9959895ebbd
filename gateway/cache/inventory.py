"""What the response cache holds, by tenant and model, and which of it an operator drops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.cache.counts import hit_rate
from gateway.cache.entry import LABEL_BYTES, Label
from gateway.cache.key import PREFIX, parts_of
from gateway.cache.responses import ResponseCache
from gateway.generation import Json
from gateway.store.sealed import HEADER_BYTES
from gateway.store.store import Store, Stored

SHOWN_KEYS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which entries: those that match everything that is given."""

    tenant: str | None = None  # a name
    model: str | None = None  # the one asked for
    tier: str | None = None  # the one that answered
    older_than_s: float | None = None
    key: str | None = None  # how the digest begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One entry. What its label says is not verified: good enough to count and to drop by."""

    key: str
    tenant: str  # MAC
    digest: str
    size: int
    label: Label | None  # None: unreadable

    @classmethod
    def of(cls, stored: Stored) -> Item | None:
        """The entry behind a stored value, None for somebody else's key."""
        parts = parts_of(stored.key)
        if parts is None:
            return None
        label = Label.read(stored.head[HEADER_BYTES:])
        return cls(key=stored.key, tenant=parts[0], digest=parts[1], size=stored.size, label=label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What a drop removed, or with a dry run would have."""

    entries: int
    bytes: int
    keys: tuple[str, ...]  # digests of the first few


class Inventory:
    """Looks through the store; slow where it holds much, and never in a request's way."""

    def __init__(
        self,
        cache: ResponseCache,
        store: Store,
        *,
        tenants: Iterable[str] = (),
        forget: Callable[[str | None], None] = lambda tenant: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._store = store
        self._names = {cache.keys.tenant(name): name for name in tenants}
        self._forget = forget
        self._clock = clock

    async def document(self) -> dict[str, Json]:
        """Entries and bytes in the store, lookups and hits of this process.

        Raises:
            StoreUnavailable: it did not answer in time.
        """
        items = await self._items()
        counted = self._cache.counts.by_model()
        tenants: dict[str, dict[str, dict[str, Json]]] = {}
        for item in items:
            model = item.label.model if item.label else "unreadable"
            row = _row(tenants, self._name(item.tenant), model)
            row["entries"] += 1
            row["bytes"] += item.size
        for (tenant, model), counts in counted.items():
            row = _row(tenants, self._name(tenant), model)
            row |= {"lookups": dict(counts), "hit_rate": hit_rate(counts)}
        total = sum_of(counted.values())
        return {
            "entries": len(items),
            "bytes": sum(item.size for item in items),
            "lookups": total,
            "hit_rate": hit_rate(total),
            "tenants": tenants,
        }

    async def drop(self, selection: Selection, *, dry_run: bool = False) -> Dropped:
        """Remove what matches. Refusals, and answers kept as drafts for similar requests, are
        forgotten whatever matches: the latter of one tenant where one is named.

        Raises:
            StoreUnavailable: it did not answer in time; some may be gone.
        """
        found = [item for item in await self._items() if self._matches(item, selection)]
        if not dry_run:
            await self._store.remove([item.key for item in found])
            self._cache.forget()
            self._forget(selection.tenant)
        return Dropped(
            entries=len(found),
            bytes=sum(item.size for item in found),
            keys=tuple(item.digest for item in found[:SHOWN_KEYS]),
        )

    async def _items(self) -> list[Item]:
        stored = await self._store.stored(PREFIX, HEADER_BYTES + LABEL_BYTES)
        return [item for item in map(Item.of, stored) if item is not None]

    def _name(self, tenant: str) -> str:
        """The name behind a MAC where it is known, else the MAC."""
        return self._names.get(tenant, tenant)

    def _matches(self, item: Item, wanted: Selection) -> bool:
        label = item.label
        if wanted.tenant is not None and item.tenant != self._cache.keys.tenant(wanted.tenant):
            return False
        if wanted.key is not None and not item.digest.startswith(wanted.key):
            return False
        if label is None:  # nobody can read it any more
            return wanted.model is None and wanted.tier is None
        if wanted.older_than_s is not None and self._clock() - label.created < wanted.older_than_s:
            return False
        return wanted.model in (None, label.model) and wanted.tier in (None, label.tier)


def sum_of(counted: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts of several tenants and models together."""
    total: dict[str, int] = {}
    for counts in counted:
        for event, times in counts.items():
            total[event] = total.get(event, 0) + times
    return total


def _row(
    tenants: dict[str, dict[str, dict[str, Json]]], tenant: str, model: str
) -> dict[str, Json]:
    fresh: dict[str, Json] = {"entries": 0, "bytes": 0, "lookups": {}, "hit_rate": None}
    return tenants.setdefault(tenant, {}).setdefault(model, fresh)


def drop_document(dropped: Dropped, dry_run: bool) -> dict[str, Json]:
    """As the admin route says it."""
    keys: Sequence[str] = dropped.keys
    return {
        "dropped": dropped.entries, "bytes": dropped.bytes, "keys": list(keys), "dry_run": dry_run,
    }  # fmt: skip
