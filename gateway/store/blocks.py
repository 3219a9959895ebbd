"""Blocks of keys and values in Redis: each value says what it holds, and proves it is ours."""

from __future__ import annotations

import contextlib
import hmac
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from blake3 import blake3

from gateway.errors import ConfigError, StoreUnavailable
from gateway.store.resp import Address, RespConnection

MAGIC = b"SPKV"
VERSION = 1
HEADER_BYTES = 160
DIGEST_BYTES = 32
_HEADER = struct.Struct("<4sHHIBBBxIIIIIIQQQ32s32s")
_Answer = TypeVar("_Answer")
_SIGNED_BYTES = HEADER_BYTES - DIGEST_BYTES
MAX_BLOCK_BYTES = 64 * 1024 * 1024

DTYPE_CODES = {"float32": 0, "bfloat16": 1, "float16": 2}
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
RAW_CODEC = 0
LAYER_KV_TOKEN_HEAD_DIM = 0
"""The one layout so far: `[layer][keys, values][token][head][dim]`, without gaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShape:
    """What every block of one model looks like here; nothing else is accepted.

    ``fingerprint`` is 32 bytes over whatever makes keys and values comparable: weights, adapter,
    rotary scaling, attention implementation, dtype.
    """

    layers: int
    kv_heads: int
    key_dim: int
    value_dim: int
    tokens: int
    dtype: str
    fingerprint: bytes

    def __post_init__(self) -> None:
        sizes = (self.layers, self.kv_heads, self.key_dim, self.value_dim, self.tokens)
        if self.dtype not in DTYPE_CODES or min(sizes) < 1 or len(self.fingerprint) != 32:
            raise ConfigError(f"got {self}; expected sizes from 1, a known dtype, 32 bytes")
        if self.payload_bytes > MAX_BLOCK_BYTES:
            raise ConfigError(
                f"a block holds {self.payload_bytes} bytes; at most {MAX_BLOCK_BYTES}"
            )

    @property
    def payload_bytes(self) -> int:
        """Length of one block's keys and values."""
        row = self.kv_heads * (self.key_dim + self.value_dim)
        return self.layers * self.tokens * row * DTYPE_BYTES[self.dtype]

    @property
    def value_bytes(self) -> int:
        """Length of one block as it is stored."""
        return HEADER_BYTES + self.payload_bytes


class Name(NamedTuple):
    """Which block: the chained hash of all tokens up to its end, salted by tenant and model."""

    hash: bytes  # 32 bytes
    start: int  # position of its first token


class BlockCodec:
    """Writes and checks the headers of one model's blocks.

    The last 32 bytes of a header are keyed BLAKE3 over the rest of it and the payload: checksum
    and MAC in one.
    """

    def __init__(self, secret: bytes, shape: BlockShape) -> None:
        self._key = blake3(secret, derive_key_context="spillway 2026 key-value blocks").digest()
        self.shape = shape

    def header(self, name: Name, payload: bytes | bytearray | memoryview) -> bytes:
        """The header of ``payload``.

        Raises:
            ValueError: the payload is not as long as the shape says.
        """
        if len(payload) != self.shape.payload_bytes:
            raise ValueError(f"got {len(payload)} bytes; expected {self.shape.payload_bytes}")
        signed = self._signed(name)
        return signed + self._digest(signed, payload)

    def payload(self, name: Name, value: memoryview) -> memoryview | None:
        """The payload of a stored value, None unless it is exactly the block of that name."""
        if len(value) != self.shape.value_bytes:
            return None
        signed = self._signed(name)
        if value[:_SIGNED_BYTES] != signed:
            return None
        payload = value[HEADER_BYTES:]
        digest = bytes(value[_SIGNED_BYTES:HEADER_BYTES])
        return payload if hmac.compare_digest(digest, self._digest(signed, payload)) else None

    def key(self, name: Name) -> bytes:
        """Where the block is stored."""
        mine = self.shape.fingerprint[:8].hex()
        return f"spillway:kv:{VERSION}:{mine}:{name.hash.hex()}".encode()

    def _signed(self, name: Name) -> bytes:
        shape, length = self.shape, self.shape.payload_bytes
        return _HEADER.pack(
            MAGIC, VERSION, HEADER_BYTES, 0,
            RAW_CODEC, DTYPE_CODES[shape.dtype], LAYER_KV_TOKEN_HEAD_DIM,
            shape.layers, shape.kv_heads, shape.key_dim, shape.value_dim, shape.tokens, 0,
            name.start, length, length, shape.fingerprint, name.hash,
        )  # fmt: skip

    def _digest(self, signed: bytes, payload: bytes | bytearray | memoryview) -> bytes:
        # One thread: several would not be faster on a machine whose other cores are at work.
        digest = blake3(signed, key=self._key)
        digest.update(payload)
        return bytes(digest.digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long Redis may take, in seconds."""

    connect_s: float = 0.25
    fetch_s: float = 1.0  # of one call, however many blocks
    store_s: float = 1.0  # of one block


class BlockTransport:
    """Blocks of one model in one Redis, for one thread. It connects when it has to.

    Who calls decides when to stop asking: nothing here waits longer than its timeouts, and
    nothing is retried.
    """

    def __init__(self, url: str, codec: BlockCodec, timeouts: Timeouts | None = None) -> None:
        self.codec = codec
        self._address = Address.parse(url)
        self._timeouts = timeouts or Timeouts()
        self._connection: RespConnection | None = None

    def fetch(self, names: Sequence[Name], buffers: Sequence[memoryview]) -> list[memoryview]:
        """Payloads of the longest run of good blocks from the first on, as views of ``buffers``.

        Each buffer is ``shape.value_bytes`` long; what follows a missing or bad block holds
        nothing of use.

        Raises:
            StoreUnavailable: Redis did not answer in time, or not as Redis does.
        """
        keys = [self.codec.key(name) for name in names]
        good: list[memoryview] = []

        def is_good(at: int) -> bool:
            payload = self.codec.payload(names[at], buffers[at])
            if payload is not None:
                good.append(payload)
            return payload is not None

        wait_s = self._timeouts.fetch_s
        self._asked(lambda link: link.get_into(keys, buffers, good=is_good, timeout_s=wait_s))
        return good

    def store(self, name: Name, payload: bytes | bytearray | memoryview, *, ttl_s: float) -> bool:
        """Keep one block; False when Redis refuses, being full or read-only.

        Raises:
            StoreUnavailable: Redis did not answer in time, or not as Redis does.
        """
        parts = [self.codec.header(name, payload), payload]
        key, wait_s = self.codec.key(name), self._timeouts.store_s
        return self._asked(lambda link: link.set(key, parts, ttl_s=ttl_s, timeout_s=wait_s))

    def buffers(self, count: int) -> list[memoryview]:
        """Room for that many stored blocks, to be used again and again."""
        return [memoryview(bytearray(self.codec.shape.value_bytes)) for _ in range(count)]

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _asked(self, ask: Callable[[RespConnection], _Answer]) -> _Answer:
        if self._connection is None:
            wait_s = self._timeouts.connect_s
            self._connection = RespConnection(self._address, connect_s=wait_s)
        try:
            return ask(self._connection)
        except StoreUnavailable:
            with contextlib.suppress(OSError):
                self.close()
            raise
