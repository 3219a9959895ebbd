"""The store of a single process: bounded by bytes, least recently used leaves first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.store.announcements import Announcements
from gateway.store.store import Stored

DEFAULT_MAX_BYTES = 64 * 1024 * 1024
ENTRY_OVERHEAD_BYTES = 256  # of the dictionary and the objects around one value


class _Kept(NamedTuple):
    value: bytes
    expires: float  # on the store's clock
    size: int


class MemoryStore:
    """Implements ``Store`` in this process. Nothing here ever waits or fails."""

    def __init__(
        self,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._durable: dict[str, bytes] = {}
        self._announcements = Announcements()
        self.used_bytes = 0

    async def get(self, key: str) -> bytes | None:
        """See ``Store``."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if self._clock() >= kept.expires:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.value

    async def set(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """See ``Store``. A value larger than the whole store is not kept."""
        self._drop(key)
        size = len(value) + len(key) + ENTRY_OVERHEAD_BYTES
        if size > self._max_bytes or ttl_s <= 0:
            return
        self._kept[key] = _Kept(value, self._clock() + ttl_s, size)
        self.used_bytes += size
        while self.used_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    async def swap(self, key: str, *, expected: bytes | None, value: bytes, ttl_s: float) -> bool:
        """See ``Store``."""
        if await self.get(key) != expected:
            return False
        await self.set(key, value, ttl_s=ttl_s)
        return True

    async def stored(self, prefix: str, head_bytes: int) -> list[Stored]:
        """See ``Store``."""
        now = self._clock()
        return [
            Stored(key, len(kept.value), kept.value[:head_bytes])
            for key, kept in self._kept.items()
            if key.startswith(prefix) and now < kept.expires
        ]

    async def remove(self, keys: Sequence[str]) -> int:
        """See ``Store``."""
        before = len(self._kept)
        for key in keys:
            self._drop(key)
        return before - len(self._kept)

    async def load(self, key: str) -> bytes | None:
        """See ``Store``."""
        return self._durable.get(key)

    async def compare_and_set(self, key: str, *, expected: bytes | None, value: bytes) -> bool:
        """See ``Store``."""
        if self._durable.get(key) != expected:
            return False
        self._durable[key] = value
        self._announcements.announce(key)
        return True

    async def wait_changed(self, key: str, timeout_s: float) -> None:
        """See ``Store``."""
        await self._announcements.wait(key, timeout_s)

    async def aclose(self) -> None:
        """See ``Store``."""

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.used_bytes -= kept.size
