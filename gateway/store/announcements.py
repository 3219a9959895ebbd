"""Waking those who wait for news of a key, within one process."""

from __future__ import annotations

import asyncio
import contextlib


class Announcements:
    """One announcement wakes everybody who waits for that key at that moment."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def announce(self, key: str) -> None:
        """Wake all who wait for ``key``."""
        for event in self._waiting.get(key, ()):
            event.set()

    def announce_all(self) -> None:
        """Wake everybody: something may have been missed."""
        for key in list(self._waiting):
            self.announce(key)

    async def wait(self, key: str, timeout_s: float) -> None:
        """Return at the next announcement of ``key``, or after ``timeout_s``."""
        event = asyncio.Event()
        self._waiting.setdefault(key, set()).add(event)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await event.wait()
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]
