"""Redis commands of one kind: own connections, own timeouts, own breaker, safe to cancel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from gateway.errors import StoreUnavailable
from gateway.store.clients import open_client
from gateway.tiers.breaker import Breaker

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
Command = Callable[[Any], Awaitable[_Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long one kind of command may take, and how many may be under way."""

    call_s: float = 0.05  # what a caller waits at most, whatever happens below
    connect_s: float = 0.1
    socket_s: float = 0.1  # one write, or one whole reply
    pool_wait_s: float = 0.05
    connections: int = 16
    waiting: int = 256  # commands begun and not ended; more are refused at once
    failures: int = 5  # in a row, until the breaker opens
    first_pause_s: float = 0.25
    longest_pause_s: float = 2.0


_LAST_TURNS = 8
"""Of the event loop, for a reply that is here already: it was we who were busy, not Redis."""


class _Outcome(NamedTuple):
    answer: Any
    error: Exception | None


class Lane:
    """Runs commands of one kind.

    Every command runs in a task of its own that nobody cancels and that redis-py's timeouts bound:
    a caller who leaves, leaves the task to read its reply. So no connection returns to the pool
    with somebody's reply still on it, and none is lost while it is handed back.
    """

    def __init__(self, name: str, url: str, limits: Limits, *, breaker: Breaker | None = None):
        self.name = name
        self.client: Any = open_client(
            url,
            connect_s=limits.connect_s,
            socket_s=limits.socket_s,
            pool_wait_s=limits.pool_wait_s,
            connections=limits.connections,
            most=limits.waiting,
        )
        self._limits = limits
        self._breaker = breaker or Breaker(
            failures=limits.failures,
            first_pause_s=limits.first_pause_s,
            longest_pause_s=limits.longest_pause_s,
        )
        self._running: set[asyncio.Task[_Outcome]] = set()
        self._said_down = False

    @property
    def up(self) -> bool:
        """Whether the last thing known of this lane is good."""
        return not self._said_down

    async def call(self, command: Command[_Answer]) -> _Answer:
        """Run one command.

        Raises:
            StoreUnavailable: breaker open, too many under way, an error, or no answer in time.
        """
        if len(self._running) >= self._limits.waiting:
            raise StoreUnavailable(f"{self.name}: {len(self._running)} commands are under way")
        if not self._breaker.begin():
            raise StoreUnavailable(f"{self.name}: Redis failed lately and is left alone")
        task = asyncio.create_task(self._run(command))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.wait({task}, timeout=self._limits.call_s)
        for _ in range(_LAST_TURNS):
            if task.done():
                break
            await asyncio.sleep(0)
        if not task.done():
            raise StoreUnavailable(f"{self.name}: no answer within {self._limits.call_s} s")
        outcome = task.result()
        if outcome.error is not None:
            raise StoreUnavailable(f"{self.name}: {outcome.error!r}") from outcome.error
        answer: _Answer = outcome.answer
        return answer

    async def aclose(self) -> None:
        """Let running commands end, then close all connections."""
        if self._running:
            await asyncio.wait(self._running)
        await self.client.aclose()
        pool = getattr(self.client, "connection_pool", None)
        if pool is not None:
            await pool.disconnect()

    async def _run(self, command: Command[_Answer]) -> _Outcome:
        """Whatever goes wrong below, even a reply that cannot be parsed, is one failure."""
        try:
            answer = await command(self.client)
        except asyncio.CancelledError:  # the loop is ending
            self._breaker.abandoned()
            raise
        except Exception as error:
            self._breaker.failed()
            self._say(error)
            return _Outcome(None, error)
        self._breaker.succeeded()
        self._say(None)
        return _Outcome(answer, None)

    def _say(self, error: Exception | None) -> None:
        """One line for each change between up and down."""
        down = self._breaker.state != "closed"
        if down and not self._said_down:
            _log.warning("redis %s: down (%r); going on without it", self.name, error)
        elif self._said_down and not down:
            _log.warning("redis %s: up again", self.name)
        self._said_down = down
