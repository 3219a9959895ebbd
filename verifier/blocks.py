"""Where cached pages outlive the engine: a place for named bytes, and one in this process."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

Good = Callable[[int, memoryview], bool]
"""Called with the place of a name and its value; False: no more of them."""


class BlockStore(Protocol):
    """Bytes by 256-bit name. Called from threads that may wait, never from an engine's step.

    What it gives back is checked by the caller; what it loses costs time only. Any exception means
    that it cannot be used now. ``owner`` says whose the values are: 32 bytes of model and salt.
    """

    def save(self, name: bytes, parts: Sequence[bytes | memoryview], owner: bytes) -> bool:
        """Keep ``parts``, one after another, as long as there is room; False: there is none."""
        ...

    def restore(self, names: Sequence[bytes], size: int, good: Good, owner: bytes) -> None:
        """Hand the values of ``names`` to ``good``, in order, until one is missing or refused.

        One that is not ``size`` bytes long is missing. The caller may keep what it is handed.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class _Kept(NamedTuple):
    value: memoryview
    owner: bytes


class MemoryBlockStore:
    """Keeps the most recently used ``max_bytes`` of values in this process. Thread-safe."""

    def __init__(self, max_bytes: int = 256 * 2**20, *, share: float = 1.0) -> None:
        """``share``: of ``max_bytes``, the most that one owner's values may take.

        An owner who has more loses his own least recently used ones, and nobody else's.
        """
        self._left = max_bytes
        self._quota = int(share * max_bytes)
        self._values: OrderedDict[bytes, _Kept] = OrderedDict()
        self._bytes_of: Counter[bytes] = Counter()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def save(self, name: bytes, parts: Sequence[bytes | memoryview], owner: bytes) -> bool:
        """See ``BlockStore``."""
        return self.keep(name, memoryview(bytearray().join(parts)), owner)

    def keep(self, name: bytes, value: memoryview, owner: bytes) -> bool:
        """As ``save``, without a copy: nobody may write to ``value`` any more."""
        with self._lock:
            self._drop(name)
            if len(value) > self._quota:
                return False
            while self._bytes_of[owner] + len(value) > self._quota:
                self._drop(next(key for key, kept in self._values.items() if kept.owner == owner))
            self._values[name] = _Kept(value, owner)
            self._left -= len(value)
            self._bytes_of[owner] += len(value)
            while self._left < 0:
                self._drop(next(iter(self._values)))
        return True

    def restore(self, names: Sequence[bytes], size: int, good: Good, owner: bytes) -> None:
        """See ``BlockStore``."""
        for at, name in enumerate(names):
            with self._lock:
                kept = self._values.get(name)
                if kept is None or len(kept.value) != size:
                    return
                self._values.move_to_end(name)
            if not good(at, kept.value):
                return

    def close(self) -> None:
        """Nothing to let go of."""

    def _drop(self, name: bytes) -> None:
        kept = self._values.pop(name, None)
        if kept is not None:
            self._left += len(kept.value)
            self._bytes_of[kept.owner] -= len(kept.value)
            if not self._bytes_of[kept.owner]:
                del self._bytes_of[kept.owner]
