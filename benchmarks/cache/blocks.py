"""How fast blocks of keys and values come out of Redis, integrity checked, beside redis-py."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from redis import Redis

from benchmarks.cache.redis_server import Server
from gateway.store.blocks import BlockCodec, BlockShape, BlockTransport, Name, Timeouts

ROUNDS = 9
BLOCKS = 32
SHAPE = BlockShape(
    layers=8, kv_heads=8, key_dim=128, value_dim=128, tokens=64, dtype="float32",
    fingerprint=b"\x07" * 32,
)  # fmt: skip
"""4 MiB a block."""


def measure(server: Server) -> dict[str, float]:
    """Gigabytes of payload a second, medians of interleaved rounds."""
    codec = BlockCodec(b"s" * 32, SHAPE)
    transport = BlockTransport(
        server.socket_url, codec, Timeouts(connect_s=10, fetch_s=60, store_s=60)
    )
    names = [Name(at.to_bytes(32, "big"), at * SHAPE.tokens) for at in range(BLOCKS)]
    payload = bytes(range(256)) * (SHAPE.payload_bytes // 256)
    for name in names:
        assert transport.store(name, payload, ttl_s=600)
    buffers = transport.buffers(BLOCKS)
    plain = Redis.from_url(server.socket_url, socket_timeout=60)
    keys = [codec.key(name) for name in names]
    sources: dict[str, Callable[[], int]] = {
        "blocks": lambda: len(transport.fetch(names, buffers)),
        "redis-py": lambda: sum(plain.get(key) is not None for key in keys),
        "digest": lambda: sum(
            codec.payload(n, b) is not None for n, b in zip(names, buffers, strict=True)
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(ROUNDS):
        for name, read in sources.items():
            began = time.perf_counter()
            assert read() == BLOCKS
            seconds[name].append(time.perf_counter() - began)
    transport.close()
    size = BLOCKS * SHAPE.payload_bytes / 1e9
    return {name: round(size / median(taken), 3) for name, taken in seconds.items()}


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    from benchmarks.cache.redis_server import running

    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as started:
        print(measure(started))
