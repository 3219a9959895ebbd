"""Pages of keys and values in a plain Redis, where a restarted engine finds them again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from gateway.config_file import apply_environment, read_toml
from gateway.errors import ConfigError
from gateway.secret import SHORTEST, kept_secret
from gateway.store.resp import Address, RespConnection
from verifier.block_tiers import TieredBlockStore
from verifier.blocks import BlockStore, Good, MemoryBlockStore

VARIABLE = "SPILLWAY_ENGINE_BLOCK_SECRET"
_PREFIX = b"spillway:kv:2:"
_CONNECT_S = 0.25
_Answer = TypeVar("_Answer")


class RedisBlockStore:
    """The ``BlockStore`` of `verifier.blocks` over Redis: a connection for each thread.

    Every wait is bounded and nothing is retried. Errors pass through: who calls leaves a store
    alone that fails.
    """

    def __init__(self, url: str, *, ttl_s: float, call_s: float = 1.0) -> None:
        """Connects at first use. ``ttl_s``: how long a page is kept without being saved again;
        ``call_s``: how long one call may take, of one page written or several read.

        Raises:
            ConfigError: not a `redis://`, `rediss://` or `unix://` URL.
        """
        self._address = Address.parse(url)
        self._ttl_s = ttl_s
        self._call_s = call_s
        self._mine = threading.local()
        self._lock = threading.Lock()  # guards the next
        self._links: set[RespConnection] = set()

    def save(self, name: bytes, parts: Sequence[bytes | memoryview], owner: bytes) -> bool:
        """See ``BlockStore``."""
        return self._asked(
            lambda link: link.set(_key(name), parts, ttl_s=self._ttl_s, timeout_s=self._call_s)
        )

    def restore(self, names: Sequence[bytes], size: int, good: Good, owner: bytes) -> None:
        """See ``BlockStore``."""
        keys = [_key(name) for name in names]
        latest = memoryview(b"")

        def room() -> Iterator[memoryview]:
            """One by one: memory of a value that nobody kept is used again, and is warm."""
            nonlocal latest
            for _ in names:
                latest = np.empty(size, np.uint8).data
                yield latest
                latest = memoryview(b"")

        def checked(at: int) -> bool:
            return good(at, latest)

        self._asked(lambda link: link.get_into(keys, room(), good=checked, timeout_s=self._call_s))

    def close(self) -> None:
        """See ``BlockStore``."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.close()

    def _asked(self, ask: Callable[[RespConnection], _Answer]) -> _Answer:
        link = self._link()
        try:
            return ask(link)
        except BaseException:
            self._drop(link)
            raise

    def _link(self) -> RespConnection:
        link: RespConnection | None = getattr(self._mine, "link", None)
        if link is None:
            link = self._mine.link = RespConnection(self._address, connect_s=_CONNECT_S)
            with self._lock:
                self._links.add(link)
        return link

    def _drop(self, link: RespConnection) -> None:
        self._mine.link = None
        with self._lock:
            self._links.discard(link)
        link.close()


def open_block_store(
    where: str | None, *, ttl_s: float, memory_bytes: int, share: float
) -> BlockStore | None:
    """The store that ``block_store`` of an engine's configuration names.

    ``memory_bytes``: of this process, alone or before Redis; ``share``: one tenant's part of them.
    """
    if where is None:
        return None
    memory = MemoryBlockStore(memory_bytes, share=share)
    if where == "memory":
        return memory
    redis = RedisBlockStore(where, ttl_s=ttl_s)
    return TieredBlockStore(memory, redis) if memory_bytes else redis


def block_secret(config: Path | None, environ: Mapping[str, str] | None = None) -> bytes:
    """What MACs of stored pages derive from: given in the environment, or made and kept on disk.

    ``config``: the file whose ``state_dir`` holds it, `.spillway` if there is none.

    Raises:
        ConfigError: it is too short, or cannot be kept.
    """
    environ = os.environ if environ is None else environ
    if given := environ.get(VARIABLE):
        if len(given) < SHORTEST:
            raise ConfigError(
                f"{VARIABLE}: got {len(given)} characters; expected {SHORTEST} or more"
            )
        return given.encode()
    document = read_toml(config) if config else {}
    apply_environment(document, environ)
    beside = config.absolute().parent if config and "state_dir" in document else Path()
    return kept_secret(beside / str(document.get("state_dir", ".spillway")) / "block-secret")


def _key(name: bytes) -> bytes:
    return _PREFIX + name.hex().encode()
