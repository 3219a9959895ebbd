"""How fast blocks of keys and values come out of Redis, integrity checked, beside redis-py."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from redis import Redis

from benchmarks.cache.redis_server import Server
from gateway.engine.block_store import RedisBlockStore
from verifier.block_format import BlockFormat
from verifier.rows import CacheShape

ROUNDS = 9
BLOCKS = 32
TOKENS = 64  # of a page
SHAPE = CacheShape(layers=8, heads=8, head_size=128, dtype=torch.float32)
"""4 MiB a block."""


def measure(server: Server) -> dict[str, float]:
    """Gigabytes of payload a second, medians of interleaved rounds."""
    torch.set_num_threads(1)  # the other core is the server's
    layout = BlockFormat("benchmark", SHAPE, TOKENS, b"s" * 32)
    store = RedisBlockStore(server.socket_url, ttl_s=600, call_s=60)
    plain = Redis.from_url(server.socket_url, socket_timeout=60)
    plain.flushall()
    names = [at.to_bytes(32, "big") for at in range(BLOCKS)]
    page = torch.randn(SHAPE.layers, TOKENS, 2 * SHAPE.heads, SHAPE.head_size)
    values = [b"".join(layout.encode(name, page) or ()) for name in names]
    for name, value in zip(names, values, strict=True):
        assert store.save(name, [value], b"")
    views = [memoryview(bytearray(value)) for value in values]
    keys = list(plain.scan_iter("spillway:kv:*", count=1000))

    def good(at: int, value: memoryview) -> bool:
        return layout.decode(names[at], value) is not None

    def fetched() -> int:
        seen = 0

        def counted(at: int, value: memoryview) -> bool:
            nonlocal seen
            seen += good(at, value)
            return True

        store.restore(names, layout.value_bytes, counted, b"")
        return seen

    sources: dict[str, Callable[[], int]] = {
        "blocks": fetched,
        "redis-py": lambda: sum(plain.get(key) is not None for key in keys),
        "digest": lambda: sum(good(at, view) for at, view in enumerate(views)),
    }
    seconds = _timed(sources)
    store.close()
    size = BLOCKS * layout.content_bytes / 1e9
    return {name: round(size / median(taken), 3) for name, taken in seconds.items()}


def _timed(sources: dict[str, Callable[[], int]]) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(ROUNDS):
        for name, read in sources.items():
            began = time.perf_counter()
            assert read() == BLOCKS
            seconds[name].append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    from benchmarks.cache.redis_server import running

    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as started:
        print(measure(started))
