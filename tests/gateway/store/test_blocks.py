"""A block that is not exactly the one asked for is a miss, whatever happened to it on its way."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.errors import ConfigError, StoreUnavailable
from gateway.store.blocks import (
    HEADER_BYTES,
    BlockCodec,
    BlockShape,
    BlockTransport,
    Name,
    Timeouts,
)

SHAPE = BlockShape(
    layers=2, kv_heads=2, key_dim=8, value_dim=4, tokens=16, dtype="float32", fingerprint=b"f" * 32
)
CODEC = BlockCodec(b"s" * 32, SHAPE)
PATIENT = Timeouts(connect_s=10, fetch_s=10, store_s=10)


def name(at: int = 0) -> Name:
    return Name(bytes([at]) * 32, at * SHAPE.tokens)


def payload(at: int = 0) -> bytes:
    return random.Random(at).randbytes(SHAPE.payload_bytes)


def stored(at: int = 0, codec: BlockCodec = CODEC) -> bytearray:
    return bytearray(codec.header(name(at), payload(at)) + payload(at))


@pytest.fixture
def transport(redis_server: Any) -> Iterator[BlockTransport]:
    opened = BlockTransport(redis_server.url, CODEC, PATIENT)
    yield opened
    opened.close()


def test_a_block_comes_back_as_it_was() -> None:
    assert CODEC.payload(name(), memoryview(stored())) == payload()


def test_ten_thousand_mutations_are_ten_thousand_misses() -> None:
    dice, whole = random.Random(17), stored()
    for _ in range(10_000):
        value = bytearray(whole)
        kind = dice.randrange(5)
        if kind == 0:
            value[dice.randrange(len(value))] ^= 1 << dice.randrange(8)
        elif kind == 1:
            value[dice.randrange(HEADER_BYTES)] ^= dice.randrange(1, 256)
        elif kind == 2:
            del value[dice.randrange(len(value)) :]
        elif kind == 3:
            value += dice.randbytes(dice.randrange(1, 64))
        else:
            value = bytearray(dice.randbytes(len(whole)))
        assert CODEC.payload(name(), memoryview(value)) is None


@pytest.mark.parametrize(
    "other",
    [
        {"dtype": "bfloat16", "key_dim": 16, "value_dim": 8},
        {"layers": 4, "kv_heads": 1},
        {"key_dim": 4, "value_dim": 8},
        {"fingerprint": b"g" * 32},
    ],
)
def test_a_block_of_another_model_or_shape_is_a_miss_even_at_the_same_length(other: Any) -> None:
    fields = {one: getattr(SHAPE, one) for one in SHAPE.__dataclass_fields__}
    shape = BlockShape(**{**fields, **other})
    assert shape.payload_bytes == SHAPE.payload_bytes
    assert BlockCodec(b"s" * 32, shape).payload(name(), memoryview(stored())) is None


def test_a_block_of_another_secret_name_or_place_is_a_miss() -> None:
    value = memoryview(stored())
    assert BlockCodec(b"t" * 32, SHAPE).payload(name(), value) is None
    assert CODEC.payload(name(1), value) is None
    assert CODEC.payload(Name(name().hash, 16), value) is None


def test_sizes_are_checked_before_anything_is_allocated() -> None:
    fields = {one: getattr(SHAPE, one) for one in SHAPE.__dataclass_fields__}
    for wrong in ({"tokens": 10**9}, {"layers": 0}, {"dtype": "int4"}, {"fingerprint": b"f"}):
        with pytest.raises(ConfigError):
            BlockShape(**{**fields, **wrong})
    with pytest.raises(ValueError, match="expected"):
        CODEC.header(name(), b"short")


def test_the_bytes_of_a_header_stay_as_they_are() -> None:
    """Golden: whoever changes the format raises VERSION."""
    assert CODEC.header(name(3), payload(3)).hex() == GOLDEN
    assert CODEC.key(name(3)) == b"spillway:kv:1:" + b"66" * 8 + b":" + b"03" * 32


def test_blocks_travel_through_a_real_redis(transport: BlockTransport) -> None:
    for at in range(4):
        assert transport.store(name(at), payload(at), ttl_s=600)
    got = transport.fetch([name(at) for at in range(4)], transport.buffers(4))
    assert [bytes(one) for one in got] == [payload(at) for at in range(4)]


def test_only_the_blocks_before_a_missing_or_bad_one_are_used(
    transport: BlockTransport, redis_server: Any
) -> None:
    names = [name(at) for at in range(5)]
    for at in (0, 1, 3, 4):
        transport.store(name(at), payload(at), ttl_s=600)
    assert len(transport.fetch(names, transport.buffers(5))) == 2
    transport.store(name(2), payload(2), ttl_s=600)
    redis_server.command("SETRANGE", CODEC.key(name(3)).decode(), "300", "x")
    assert len(transport.fetch(names, transport.buffers(5))) == 3
    redis_server.command("SET", CODEC.key(name(1)).decode(), "short")
    assert len(transport.fetch(names, transport.buffers(5))) == 1
    redis_server.command("DEL", CODEC.key(name(0)).decode())
    redis_server.command("LPUSH", CODEC.key(name(0)).decode(), "x")
    assert transport.fetch(names, transport.buffers(5)) == []


def test_a_full_redis_refuses_and_keeps_the_connection(
    transport: BlockTransport, redis_server: Any
) -> None:
    transport.store(name(0), payload(0), ttl_s=600)
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    assert not transport.store(name(1), payload(1), ttl_s=600)
    assert len(transport.fetch([name(0), name(1)], transport.buffers(2))) == 1


def test_a_frozen_or_dead_redis_is_told_in_time_and_used_again_when_it_is_back(
    redis_server: Any,
) -> None:
    transport = BlockTransport(redis_server.url, CODEC, Timeouts(fetch_s=0.2, store_s=0.2))
    assert transport.store(name(0), payload(0), ttl_s=600)
    redis_server.freeze()
    with pytest.raises(StoreUnavailable):
        transport.fetch([name(0)], transport.buffers(1))
    redis_server.thaw()
    late = BlockTransport(redis_server.url, CODEC, PATIENT)
    assert len(late.fetch([name(0)], late.buffers(1))) == 1
    redis_server.restart()
    with pytest.raises(StoreUnavailable):
        late.fetch([name(0)], late.buffers(1))
    assert late.fetch([name(0)], late.buffers(1)) == []
    late.close()
    transport.close()


GOLDEN = (
    "53504b560100a0000000000000000000020000000200000008000000040000001000000000000000"
    "3000000000000000000c000000000000000c00000000000066666666666666666666666666666666"
    "66666666666666666666666666666666030303030303030303030303030303030303030303030303"
    "03030303030303033073e40df9fc3b5236359fb837679070dfb58daba087998d4d10d593bf85469a"
)
