"""What the gateway asks of a place to keep things, shared between replicas or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Stored(NamedTuple):
    """One short-lived value as an operator sees it."""

    key: str
    size: int  # bytes of the value
    head: bytes  # how it begins


class Store(Protocol):
    """Bytes by key. Short-lived values may vanish at any time; durable ones have no expiry.

    Every method raises ``StoreUnavailable`` when the store does not answer in time. Cancelling
    any of them at any moment is safe.
    """

    async def get(self, key: str) -> bytes | None:
        """A short-lived value, None when there is none."""
        ...

    async def set(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep a short-lived value for at most ``ttl_s`` seconds."""
        ...

    async def swap(self, key: str, *, expected: bytes | None, value: bytes, ttl_s: float) -> bool:
        """Keep a short-lived value if ``expected`` is what is there now (None: nothing).

        False: something else was there, and stays.
        """
        ...

    async def stored(self, prefix: str, head_bytes: int) -> list[Stored]:
        """Every short-lived value whose key begins with ``prefix``; slow, for operators only."""
        ...

    async def remove(self, keys: Sequence[str]) -> int:
        """Remove short-lived values; how many there were."""
        ...

    async def load(self, key: str) -> bytes | None:
        """A durable value, None when there is none."""
        ...

    async def compare_and_set(self, key: str, *, expected: bytes | None, value: bytes) -> bool:
        """Replace a durable value if it still is ``expected`` (None: absent), and announce it.

        False: it was something else and nothing changed. After ``StoreUnavailable`` it either
        was changed before the call returned, or never will be by this call.
        """
        ...

    async def wait_changed(self, key: str, timeout_s: float) -> None:
        """Return when a change of ``key`` is announced, or after ``timeout_s``. Never raises
        ``StoreUnavailable``: an announcement is a hint, looking is the caller's business."""
        ...

    async def aclose(self) -> None:
        """Release connections and tasks."""
        ...
