"""Leaves a block store alone that failed, longer each time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

_PAUSE_S: Final = (0.25, 5.0)  # first and longest
_log = logging.getLogger(__name__)


class Rest:
    """Whether a store rests after a failure. One log line for each change."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until = 0.0
        self._pause_s = 0.0

    def now(self) -> bool:
        """Whether the store is to be left alone."""
        return self._clock() < self._until

    def begin(self, error: Exception) -> None:
        """It failed."""
        if not self._pause_s:
            _log.warning("block store: down (%s); going on without it", type(error).__name__)
        first, longest = _PAUSE_S
        self._pause_s = min(max(2 * self._pause_s, first), longest)
        self._until = self._clock() + self._pause_s

    def end(self) -> None:
        """It answered."""
        if self._pause_s:
            _log.warning("block store: up again")
        self._pause_s = 0.0
