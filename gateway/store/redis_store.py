"""The store that replicas share: Redis, expected to be absent, slow, full or lying at times."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.errors import StoreUnavailable
from gateway.store.announcements import Announcements
from gateway.store.lane import Lane, Limits
from gateway.store.store import Stored

CONTROL_LIMITS = Limits(
    call_s=1.0, connect_s=1.0, socket_s=1.0, pool_wait_s=1.0, connections=4, failures=3
)
ADMIN_LIMITS = Limits(
    call_s=30.0, connect_s=1.0, socket_s=5.0, pool_wait_s=1.0, connections=2, failures=1000
)
"""For operators who list and remove: rare, slow, and never in a request's way."""
MOST_LISTED = 200_000
_PAGE = 500
MAX_VALUE_BYTES = 16 * 1024 * 1024
CHANNEL = "spillway:changed"

# Refused after the deadline: a command that waited in a frozen server's socket must not take
# effect once its caller has been told that it failed.
_COMPARE_AND_SET = """
local now = redis.call('TIME')
if tonumber(now[1]) + tonumber(now[2]) / 1000000 > tonumber(ARGV[4]) then return -1 end
local found = redis.call('GET', KEYS[1])
if ARGV[1] == '0' then
  if found then return 0 end
elseif found ~= ARGV[2] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[5], KEYS[1])
return 1
"""


_TIME = "return redis.call('TIME')"  # of the very server that holds the key

_SWAP = """
local found = redis.call('GET', KEYS[1])
if found ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""


class RedisStore:
    """Implements ``Store`` on one Redis. Reads, writes and control have their own lanes."""

    def __init__(
        self, url: str, *, limits: Limits | None = None, control_limits: Limits = CONTROL_LIMITS
    ) -> None:
        self._read = Lane("read", url, limits or Limits())
        self._write = Lane("write", url, limits or Limits())
        self._control = Lane("control", url, control_limits)
        self._admin = Lane("admin", url, ADMIN_LIMITS)
        self._control_limits = control_limits
        self._announcements = Announcements()
        self._listener: asyncio.Task[None] | None = None

    async def get(self, key: str) -> bytes | None:
        """See ``Store``. A value of another type, or far too long, is none."""
        return await self._read.call(lambda redis: _get(redis, key))

    async def set(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """See ``Store``."""
        expiry_ms = max(1, int(ttl_s * 1000))
        await self._write.call(lambda redis: redis.set(key, value, px=expiry_ms))

    async def swap(self, key: str, *, expected: bytes | None, value: bytes, ttl_s: float) -> bool:
        """See ``Store``."""
        expiry_ms = max(1, int(ttl_s * 1000))
        if expected is None:
            return await self._write.call(
                lambda redis: _done(redis.set(key, value, px=expiry_ms, nx=True))
            )
        arguments = (expected, value, expiry_ms)
        return await self._write.call(lambda redis: _done(redis.eval(_SWAP, 1, key, *arguments)))

    async def stored(self, prefix: str, head_bytes: int) -> list[Stored]:
        """See ``Store``."""
        return await self._admin.call(lambda redis: _stored(redis, prefix, head_bytes))

    async def remove(self, keys: Sequence[str]) -> int:
        """See ``Store``."""
        return await self._admin.call(lambda redis: _remove(redis, keys))

    async def load(self, key: str) -> bytes | None:
        """See ``Store``."""
        return await self._control.call(lambda redis: _get(redis, key))

    async def compare_and_set(self, key: str, *, expected: bytes | None, value: bytes) -> bool:
        """See ``Store``."""
        budget_s = self._control_limits.call_s
        seconds, micros = await self._control.call(lambda redis: redis.eval(_TIME, 1, key))
        deadline = int(seconds) + int(micros) / 1e6 + budget_s
        known = ("0", b"") if expected is None else ("1", expected)
        arguments = (*known, value, f"{deadline:.6f}", CHANNEL)
        began = asyncio.get_running_loop().time()
        try:
            done = await self._control.call(
                lambda redis: redis.eval(_COMPARE_AND_SET, 1, key, *arguments)
            )
        except StoreUnavailable:
            await asyncio.sleep(began + budget_s - asyncio.get_running_loop().time())
            raise
        if done == -1:
            raise StoreUnavailable("control: Redis answered too late")
        self._announcements.announce(key)
        return bool(done == 1)

    async def wait_changed(self, key: str, timeout_s: float) -> None:
        """See ``Store``."""
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen())
        await self._announcements.wait(key, timeout_s)

    async def aclose(self) -> None:
        """See ``Store``."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait({self._listener})
        for lane in (self._read, self._write, self._control, self._admin):
            await lane.aclose()

    async def _listen(self) -> None:
        """Pass on what other replicas announce, for as long as this store lives."""
        while True:
            with contextlib.suppress(Exception):
                await self._relay()
            self._announcements.announce_all()
            await asyncio.sleep(random.uniform(0.5, 1.0))  # noqa: S311

    async def _relay(self) -> None:
        async with self._control.client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(CHANNEL)
            while True:
                message = await pubsub.get_message(timeout=5.0)
                if message is not None:
                    self._announcements.announce(_text(message["data"]))


async def _get(redis: Redis, key: str) -> bytes | None:
    try:
        value = await redis.get(key)
    except ResponseError as error:
        if str(error).startswith("WRONGTYPE"):
            return None
        raise
    if not isinstance(value, bytes) or len(value) > MAX_VALUE_BYTES:
        return None
    return value


async def _done(answer: Any) -> bool:
    return await answer in (True, 1, b"OK")


async def _stored(redis: Redis, prefix: str, head_bytes: int) -> list[Stored]:
    keys: list[bytes] = []
    async for key in redis.scan_iter(match=f"{prefix}*", count=1000):
        keys.append(key)
        if len(keys) >= MOST_LISTED:
            break
    found: list[Stored] = []
    for at in range(0, len(keys), _PAGE):
        page = keys[at : at + _PAGE]
        pipeline: Any = redis.pipeline(transaction=False)
        for key in page:
            pipeline.execute_command("STRLEN", key)
            pipeline.execute_command("GETRANGE", key, 0, head_bytes - 1)
        answers = await pipeline.execute(raise_on_error=False)
        for key, size, head in zip(page, answers[::2], answers[1::2], strict=True):
            if isinstance(size, int) and isinstance(head, bytes) and size > 0:
                found.append(Stored(key.decode("utf-8", "replace"), size, head))
    return found


async def _remove(redis: Redis, keys: Sequence[str]) -> int:
    removed = 0
    for at in range(0, len(keys), _PAGE):
        pipeline: Any = redis.pipeline(transaction=False)
        for key in keys[at : at + _PAGE]:
            pipeline.execute_command("UNLINK", key)
        removed += sum(await pipeline.execute())
    return removed


def _text(data: Any) -> str:
    return data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data)
