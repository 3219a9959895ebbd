"""Answers found a moment ago, read and checked already: a busy one is not fetched each time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from gateway.cache.entry import Entry


class _Kept(NamedTuple):
    entry: Entry
    until: float
    size: int


class Recent:
    """A few entries of the store for a second at most, bounded by bytes as they are stored.

    What another replica replaces or drops is given for that second longer; thresholds are
    compared at every hit all the same.
    """

    def __init__(
        self,
        *,
        ttl_s: float,
        max_bytes: int = 16 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._used = 0

    def get(self, key: str) -> Entry | None:
        """The entry, if it was found so lately."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if self._clock() < kept.until:
            return kept.entry
        self.drop(key)
        return None

    def put(self, key: str, entry: Entry, size: int) -> None:
        """Remember what was just found."""
        self.drop(key)
        if self._ttl_s <= 0:
            return
        self._kept[key] = _Kept(entry, self._clock() + self._ttl_s, size)
        self._used += size
        while self._used > self._max_bytes:
            self.drop(next(iter(self._kept)))

    def drop(self, key: str) -> None:
        """Forget it: it was replaced."""
        kept = self._kept.pop(key, None)
        self._used -= kept.size if kept else 0

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self._used = 0
