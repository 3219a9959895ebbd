"""Memory of this process over a slower block store: what was used twice is close at hand."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from verifier.block_rest import Rest
from verifier.blocks import BlockStore, Good, MemoryBlockStore

_MOST_SEEN: Final = 65_536  # names used once


class TieredBlockStore:
    """Values go to ``below`` at once, and into memory at their second use. Thread-safe.

    The first use is being saved; being saved again, or fetched, is the second. While ``below``
    is down, memory serves alone.
    """

    def __init__(
        self,
        memory: MemoryBlockStore,
        below: BlockStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._memory = memory
        self._below = below
        self._rest = Rest(clock)
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def save(self, name: bytes, parts: Sequence[bytes | memoryview], owner: bytes) -> bool:
        """See ``BlockStore``."""
        kept = self._used_before(name) and self._memory.save(name, parts, owner)
        saved = self._tried(lambda: self._below.save(name, parts, owner))
        return saved or kept

    def restore(self, names: Sequence[bytes], size: int, good: Good, owner: bytes) -> None:
        """See ``BlockStore``."""
        got, refused = 0, False

        def from_memory(at: int, value: memoryview) -> bool:
            nonlocal got, refused
            got, refused = at + 1, not good(at, value)
            return not refused

        self._memory.restore(names, size, from_memory, owner)
        if refused or got == len(names):
            return
        left, start = names[got:], got

        def from_below(at: int, value: memoryview) -> bool:
            fine = good(start + at, value)
            if fine:
                self._memory.keep(left[at], value, owner)
            return fine

        def ask() -> bool:
            self._below.restore(left, size, from_below, owner)
            return True

        self._tried(ask)

    def close(self) -> None:
        """See ``BlockStore``."""
        self._below.close()

    def _used_before(self, name: bytes) -> bool:
        if name in self._seen:
            return True
        self._seen[name] = None
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)
        return False

    def _tried(self, call: Callable[[], bool]) -> bool:
        if self._rest.now():
            return False
        try:
            done = call()
        except Exception as error:
            self._rest.begin(error)
            return False
        self._rest.end()
        return done
