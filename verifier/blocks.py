"""Where cached pages outlive the engine: a place for named bytes, and one in this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol


class BlockStore(Protocol):
    """Bytes by 256-bit name. Called from threads that may wait, never from an engine's step.

    What it gives back is checked by the caller; what it loses costs time only. Any exception means
    that it cannot be used now.
    """

    def save(self, name: bytes, value: bytes) -> None:
        """Keep ``value`` for as long as there is room."""
        ...

    def restore(self, names: Sequence[bytes]) -> Sequence[bytes | None]:
        """What is kept under each of ``names``, in order; None for what is not."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class MemoryBlockStore:
    """Keeps the most recently used ``max_bytes`` of values in this process. Thread-safe."""

    def __init__(self, max_bytes: int = 256 * 2**20) -> None:
        self._left = max_bytes
        self._values: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def save(self, name: bytes, value: bytes) -> None:
        """See ``BlockStore``."""
        with self._lock:
            self._left += len(self._values.pop(name, b""))
            self._values[name] = value
            self._left -= len(value)
            while self._left < 0:
                self._left += len(self._values.popitem(last=False)[1])

    def restore(self, names: Sequence[bytes]) -> Sequence[bytes | None]:
        """See ``BlockStore``."""
        with self._lock:
            for name in names:
                if name in self._values:
                    self._values.move_to_end(name)
            return [self._values.get(name) for name in names]

    def close(self) -> None:
        """Nothing to let go of."""
