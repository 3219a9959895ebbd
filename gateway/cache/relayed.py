"""An answer on its way between replicas: written in batches, sealed, and read with suspicion."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from gateway.cache.entry import fields_of
from gateway.errors import GatewayError, StoreUnavailable
from gateway.generation import AnswerEvent, Delta, Finished, Json, Started, Usage
from gateway.store.relay import Claim, Relay
from gateway.store.sealed import Seal

MAX_BYTES = 1024 * 1024  # of one answer on its way; who wants a longer one generates it itself
_MOST_FAILURES = 5  # of writing one batch
_LAST_TRIES = 3  # of writing the last one; without it followers wait until they think us dead
Kind = Literal["more", "done", "over"]
_EVENTS: tuple[type[AnswerEvent], ...] = (Started, Delta, Finished)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """How often a leader speaks, and how long it may be silent, in seconds."""

    alone_s: float = 0.1  # between batches while nobody is known to follow
    followed_s: float = 0.01
    heartbeat_s: float = 0.3
    dead_s: float = 1.5  # a leader silent for so long is dead
    want_s: float = 3.0  # how often a follower says that it follows


class Lost(GatewayError):
    """The leader fell silent, gave up, or wrote what cannot be read."""


class Batch(NamedTuple):
    """One entry of a stream: events, and whether it is the last one."""

    kind: Kind
    events: tuple[AnswerEvent, ...] = ()

    def encode(self) -> bytes:
        """As JSON."""
        told = [self.kind, [[_EVENTS.index(type(event)), event] for event in self.events]]
        text = json.dumps(told, default=fields_of, separators=(",", ":"), allow_nan=False)
        return text.encode()

    @classmethod
    def decode(cls, payload: bytes | None) -> Batch:
        """Read what ``encode`` wrote.

        Raises:
            Lost: it is something else.
        """
        try:
            kind, told = json.loads(payload or b"")
            if kind not in get_args(Kind):
                raise ValueError(f"got {str(kind)[:16]!r}; expected one of {get_args(Kind)}")
            return cls(kind, tuple(_event(which, fields) for which, fields in told))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise Lost(f"the leader wrote what cannot be read: {error!r}") from None


def _event(which: int, fields: dict[str, Json]) -> AnswerEvent:
    if which == 1:
        logprobs = fields.pop("logprobs")
        return Delta(logprobs=None if logprobs is None else tuple(logprobs), **fields)
    if which == 2:
        return Finished(usage=Usage(**fields.pop("usage")), **fields)
    return Started(**fields)


class Publisher:
    """Writes the events of one generation for other replicas, beside its own readers.

    What cannot be written in time is dropped, never waited for: followers take over.
    """

    def __init__(self, relay: Relay, claim: Claim, seal: Seal, rhythm: Rhythm) -> None:
        self.wanted = False  # as of the last batch
        self._relay = relay
        self._claim = claim
        self._seal = seal
        self._rhythm = rhythm
        self._waiting: list[AnswerEvent] = []
        self._unsure: bytes | None = None  # a batch that was written or not, nobody knows
        self._number = 0
        self._left_bytes = MAX_BYTES
        self._given_up = False
        self._ending = asyncio.Event()
        self._writing = asyncio.create_task(self._write())

    def put(self, event: AnswerEvent) -> None:
        """One more event; it leaves with the next batch."""
        if not self._given_up:
            self._waiting.append(event)

    async def end(self, kind: Kind) -> None:
        """Write what is left: "done" after the last event, "over" when it will never come."""
        self._ending.set()
        await asyncio.wait({self._writing})
        if self._unsure is not None:  # followers will notice the silence
            return
        last = Batch("over") if self._given_up else Batch(kind, tuple(self._waiting))
        for _ in range(_LAST_TRIES):
            with contextlib.suppress(StoreUnavailable):
                await self._relay.finish(self._claim, self._number + 1, self._sealed(last))
                return
            await asyncio.sleep(self._rhythm.alone_s)

    async def _write(self) -> None:
        spoke = time.monotonic()
        failures = 0
        while not (self._given_up or self._ending.is_set()):
            await self._pause()
            silent_s = time.monotonic() - spoke
            if not (self._waiting or self._unsure or silent_s >= self._rhythm.heartbeat_s):
                continue
            if self._ending.is_set() and self._unsure is None:
                return
            failures = 0 if await self._batch() else failures + 1
            spoke = time.monotonic()
            if failures >= _MOST_FAILURES:
                self._give_up()

    async def _pause(self) -> None:
        pause_s = self._rhythm.followed_s if self.wanted else self._rhythm.alone_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._ending.wait()

    async def _batch(self) -> bool:
        """Write everything that waits; a batch that may be there already is written again as it
        was, for the same number again is the same entry again."""
        if self._unsure is None:
            self._unsure = self._sealed(Batch("more", tuple(self._waiting)))
            self._waiting.clear()
            self._left_bytes -= len(self._unsure)
        try:
            self.wanted, superseded = await self._relay.say(
                self._claim, self._number + 1, self._unsure
            )
        except StoreUnavailable:
            return False
        self._unsure = None
        self._number += 1
        if superseded or self._left_bytes < 0:
            self._give_up()
        return True

    def _give_up(self) -> None:
        self._given_up, self.wanted = True, False
        self._waiting.clear()

    def _sealed(self, batch: Batch) -> bytes:
        return self._seal.close(f"{self._claim.stream}:{self._number + 1}", batch.encode())


async def follow(
    relay: Relay, claim: Claim, seal: Seal, rhythm: Rhythm
) -> AsyncGenerator[AnswerEvent]:
    """Events of a generation that another replica leads, from its beginning.

    Raises:
        Lost: it will not be finished there.
        StoreUnavailable: Redis did not answer in time.
    """
    number, said, heard = 0, 0.0, time.monotonic()
    while True:
        if time.monotonic() - said > rhythm.want_s or not said:
            await relay.want(claim)
            said = time.monotonic()
        for entry in await relay.listen(claim, number):
            number, heard = number + 1, time.monotonic()
            if entry.number != number:
                raise Lost(f"got entry {entry.number}; expected {number}")
            batch = Batch.decode(seal.open(f"{claim.stream}:{number}", entry.payload))
            for event in batch.events:
                yield event
            if batch.kind == "done":
                return
            if batch.kind == "over":
                raise Lost("the leader gave up")
        if time.monotonic() - heard > rhythm.dead_s:
            raise Lost("the leader fell silent")
