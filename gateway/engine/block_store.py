"""Pages of keys and values in a plain Redis, where a restarted engine finds them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from verifier.blocks import BlockStore, MemoryBlockStore

_PREFIX = b"spillway:kv:1:"
_CONNECT_S = 0.25
_SOCKET_S = 0.25  # one write or one reply
_CONNECTIONS = 8


class RedisBlockStore:
    """The ``BlockStore`` of `verifier.blocks` over Redis. Thread-safe; every wait is bounded.

    Errors of redis-py pass through: the courier that calls it leaves a store alone that fails.
    """

    def __init__(self, url: str, *, ttl_s: float) -> None:
        """Connects at first use. ``ttl_s``: how long a page is kept without being saved again."""
        pool: Any = BlockingConnectionPool.from_url(
            url,
            protocol=2,
            timeout=_SOCKET_S,
            max_connections=_CONNECTIONS,
            socket_connect_timeout=_CONNECT_S,
            socket_timeout=_SOCKET_S,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            driver_info=None,
        )
        self._redis = Redis.from_pool(pool)
        self._ttl_ms = int(ttl_s * 1000)

    def save(self, name: bytes, value: bytes) -> None:
        """See ``BlockStore``."""
        self._redis.set(_PREFIX + name.hex().encode(), value, px=self._ttl_ms)

    def restore(self, names: Sequence[bytes]) -> Sequence[bytes | None]:
        """See ``BlockStore``."""
        found: Any = self._redis.mget([_PREFIX + name.hex().encode() for name in names])
        return [one if isinstance(one, bytes) else None for one in found]

    def close(self) -> None:
        """See ``BlockStore``."""
        self._redis.close()


def open_block_store(where: str | None, *, ttl_s: float, memory_bytes: int) -> BlockStore | None:
    """The store that ``block_store`` of an engine's configuration names."""
    if where is None:
        return None
    return (
        MemoryBlockStore(memory_bytes) if where == "memory" else RedisBlockStore(where, ttl_s=ttl_s)
    )
