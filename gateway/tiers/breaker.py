"""A circuit breaker: after some failures in a row nobody is sent, then one probe at a time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half_open"]


class Breaker:
    """Failures in a row open it; after a jittered pause one request may try; its success closes it.

    Every ``begin`` that returned True is ended by exactly one of ``succeeded``, ``failed`` or
    ``abandoned`` (the caller left: nothing was learnt). The pause doubles while probes fail.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        first_pause_s: float = 1.0,
        longest_pause_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._limit = failures
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._jitter = jitter
        self._failures = 0
        self._pause_s = 0.0
        self._open_until: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """Where it stands now."""
        if self._open_until is None:
            return "closed"
        return "half_open" if self._clock() >= self._open_until else "open"

    def allows(self) -> bool:
        """Whether a request that began now would be let through."""
        return self.state == "closed" or (self.state == "half_open" and not self._probing)

    def retry_after_s(self) -> float:
        """Seconds until the next probe may go; 0 when one may go now."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._clock())

    def begin(self) -> bool:
        """Let a request through, or not."""
        if not self.allows():
            return False
        self._probing = self.state == "half_open"
        return True

    def succeeded(self) -> None:
        """The server answered properly, be it with a refusal."""
        self._failures, self._pause_s = 0, 0.0
        self._open_until, self._probing = None, False

    def failed(self) -> None:
        """The server did not answer, or broke off."""
        late = self._open_until is not None and not self._probing
        if late:  # it began before the breaker opened: no news, and no probe
            return
        self._failures += 1
        self._probing = False
        if self._open_until is not None or self._failures >= self._limit:
            self._open()

    def abandoned(self) -> None:
        """The caller left before anything was learnt."""
        self._probing = False

    def _open(self) -> None:
        """Between half and the whole of the pause, so that replicas do not probe in step."""
        self._pause_s = min(max(self._first_pause_s, 2 * self._pause_s), self._longest_pause_s)
        self._open_until = self._clock() + self._pause_s * (0.5 + 0.5 * self._jitter())
