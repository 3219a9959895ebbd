"""Sources that fail: a draft is a guess, so nobody's request ends for one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

_log = logging.getLogger(__name__)

_MOST: Final = 3  # failures after which a source is left out


class Failures:
    """How often each source of one target failed."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> Mapping[str, int]:
        """By source name, those that failed at least once."""
        return self._counts

    def note(self, name: str) -> None:
        """Count one of source ``name``; call it where its exception is caught."""
        first = not self._counts[name]
        self._counts[name] += 1
        _log.error("draft source %r failed (%d)", name, self._counts[name], exc_info=first)
        if self.final(name):
            _log.error("draft source %r is left out from now on", name)

    def final(self, name: str) -> bool:
        """Whether source ``name`` is left out."""
        return self._counts[name] >= _MOST

    def guard(self, name: str, call: Callable[[], None]) -> None:
        """Do what source ``name`` may fail at."""
        try:
            call()
        except Exception:  # whatever it is, the request goes on without
            self.note(name)
