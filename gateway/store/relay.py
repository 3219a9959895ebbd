"""Generations shared by replicas: who leads one, and a stream of what it says, replayed at will."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from gateway.errors import StoreUnavailable
from gateway.store.lane import Lane, Limits

FORMAT = 1
"""Of claims and entries; raised when replicas of two versions would not understand each other."""
ATTEMPTS = 4
"""How often a generation may change hands; whoever wants it after that is on its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long things take between replicas, in seconds."""

    lease_s: float = 10.0  # a claim is forgotten this long after its holder fell silent
    block_s: float = 0.2  # one wait for news
    done_s: float = 1.0  # who asks so soon after the end still follows
    read_s: float = 5.0  # and has so long to read


class Claim(NamedTuple):
    """One attempt at one generation. The attempt's number is the fencing token: who takes over has
    a higher one and writes elsewhere, so a leader that wakes up late writes where nobody reads."""

    key: str
    attempt: int
    token: str
    leads: bool

    @property
    def stream(self) -> str:
        """Where its leader writes; the token keeps apart two that claimed one attempt in turn."""
        return f"{self.key}:{self.attempt}:{self.token}"


class Heard(NamedTuple):
    """One entry of a stream."""

    number: int
    payload: bytes


class Relay:
    """Claims and streams in Redis. Every key of one generation lies in one slot of a cluster."""

    def __init__(self, url: str, limits: Limits, pace: Pace | None = None) -> None:
        self.pace = pace or Pace()
        self._lane = Lane("flights", url, limits)
        slow = Limits(
            call_s=limits.call_s + 4 * self.pace.block_s,
            connect_s=limits.connect_s,
            socket_s=limits.socket_s + 4 * self.pace.block_s,
            pool_wait_s=limits.pool_wait_s,
            connections=limits.connections,
            waiting=limits.connections,
        )
        self._following = Lane("followers", url, slow)

    async def join(self, name: str, after: int = 0) -> Claim | None:
        """Lead attempt ``after`` + 1 of a generation, or follow whoever leads the latest one.

        None: it changed hands too often.

        Raises:
            StoreUnavailable: Redis did not answer in time.
        """
        if after >= ATTEMPTS:
            return None
        key, token = _key(name), secrets.token_hex(8)
        lease, expiry_ms = _lease(key, after + 1), int(self.pace.lease_s * 1000)
        if await self._lane.call(lambda redis: redis.set(lease, token, nx=True, px=expiry_ms)):
            return Claim(key, after + 1, token, leads=True)
        leases = [_lease(key, one) for one in range(1, ATTEMPTS + 1)]
        holders = await self._lane.call(lambda redis: redis.mget(leases))
        for attempt in range(ATTEMPTS, after, -1):
            holder = holders[attempt - 1]
            if isinstance(holder, bytes):
                held = holder.decode("utf-8", "replace")[:32]
                return Claim(key, attempt, held, leads=held == token)
        raise StoreUnavailable("flights: a claim vanished as it was looked at")

    async def say(self, claim: Claim, number: int, payload: bytes) -> tuple[bool, bool]:
        """Write entry ``number``; writing it twice is writing it once.

        Whether anybody follows, and whether somebody else has taken over.

        Raises:
            StoreUnavailable: Redis did not answer in time; it may have been written.
        """
        return await self._lane.call(lambda redis: self._say(redis, claim, number, payload))

    async def finish(self, claim: Claim, number: int, payload: bytes) -> None:
        """Write the last entry; what is there stays readable for a moment. Errors: see ``say``."""
        await self._lane.call(lambda redis: self._finish(redis, claim, number, payload))

    async def listen(self, claim: Claim, after: int) -> list[Heard]:
        """Entries after number ``after``, as soon as there are some; none after a while.

        Raises:
            StoreUnavailable: Redis did not answer in time, or with something that is no stream.
        """
        return await self._following.call(lambda redis: self._listen(redis, claim, after))

    async def want(self, claim: Claim) -> None:
        """Let the leader know for a while that somebody follows. Errors: see ``listen``."""
        expiry_ms = int(self.pace.lease_s * 1000)
        await self._lane.call(lambda redis: redis.set(f"{claim.stream}:want", b"1", px=expiry_ms))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._lane.aclose()
        await self._following.aclose()

    async def _say(
        self, redis: Any, claim: Claim, number: int, payload: bytes
    ) -> tuple[bool, bool]:
        pipeline = redis.pipeline(transaction=False)
        lease_ms = int(self.pace.lease_s * 1000)
        pipeline.xadd(claim.stream, {b"p": payload}, id=f"{number}-0")
        pipeline.pexpire(claim.stream, lease_ms)
        pipeline.execute_command("EXISTS", f"{claim.stream}:want")
        pipeline.execute_command("EXISTS", _lease(claim.key, claim.attempt + 1))
        for attempt in range(1, claim.attempt + 1):  # newcomers begin at the first
            pipeline.pexpire(_lease(claim.key, attempt), lease_ms)
        answers = await pipeline.execute(raise_on_error=False)
        _check_written(answers)
        return bool(answers[2]), bool(answers[3])

    async def _finish(self, redis: Any, claim: Claim, number: int, payload: bytes) -> None:
        pipeline = redis.pipeline(transaction=False)
        pipeline.xadd(claim.stream, {b"p": payload}, id=f"{number}-0")
        pipeline.pexpire(claim.stream, int(self.pace.read_s * 1000))
        for attempt in range(1, claim.attempt + 1):
            pipeline.pexpire(_lease(claim.key, attempt), int(self.pace.done_s * 1000))
        _check_written(await pipeline.execute(raise_on_error=False))

    async def _listen(self, redis: Any, claim: Claim, after: int) -> list[Heard]:
        block_ms = max(1, int(self.pace.block_s * 1000))
        answer = await redis.xread({claim.stream: f"{after}-0"}, count=64, block=block_ms)
        entries = answer[0][1] if answer else []
        return [Heard(int(name.partition(b"-")[0]), fields[b"p"]) for name, fields in entries]


def _check_written(answers: list[Any]) -> None:
    """An entry that is there already is one that was written by a try nobody heard back of."""
    for answer in answers:
        known = isinstance(answer, ResponseError) and "equal or smaller" in str(answer)
        if isinstance(answer, Exception) and not known:
            raise answer


def _key(name: str) -> str:
    return f"spillway:sf:{FORMAT}:{{{hashlib.sha256(name.encode()).hexdigest()}}}"


def _lease(key: str, attempt: int) -> str:
    return f"{key}:{attempt}"
