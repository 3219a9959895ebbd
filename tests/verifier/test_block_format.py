"""A page survives the way to bytes and back; anything else is a miss."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verifier.block_format import HEADER_BYTES, BlockFormat
from verifier.errors import ModelRefused
from verifier.rows import CacheShape

NAME = bytes(range(32))
SECRET = b"s" * 32
SHAPE = CacheShape(layers=2, heads=2, head_size=4, dtype=torch.float32)


def made(
    model: str = "model", shape: CacheShape = SHAPE, page_size: int = 8, secret: bytes = SECRET
) -> BlockFormat:
    return BlockFormat(model, shape, page_size, secret)


LAYOUT = made()


def page(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(2, 8, 4, 4).to(dtype)


def stored(layout: BlockFormat = LAYOUT, content: torch.Tensor | None = None) -> bytearray:
    parts = layout.encode(NAME, page() if content is None else content)
    assert parts is not None
    return bytearray().join(parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_page_comes_back_bit_for_bit(dtype: torch.dtype) -> None:
    layout = made(shape=SHAPE._replace(dtype=dtype))
    value = stored(layout, page(dtype))
    assert len(value) == HEADER_BYTES + layout.content_bytes == layout.value_bytes
    found = layout.decode(NAME, memoryview(value))
    assert found is not None
    assert torch.equal(found, page(dtype))


def test_the_bytes_of_a_value_are_what_they_were() -> None:
    """Golden: whoever changes the format raises VERSION."""
    value = stored(content=torch.arange(256.0).view(2, 8, 4, 4))
    assert value[:HEADER_BYTES].hex() == GOLDEN


@pytest.mark.parametrize(
    "other",
    [
        made("another model"),
        made(page_size=16),
        made(shape=SHAPE._replace(layers=4), page_size=4),
        made(shape=SHAPE._replace(heads=1, head_size=8)),
        made(shape=SHAPE._replace(dtype=torch.bfloat16, head_size=8)),
        made(secret=b"t" * 32),
    ],
)
def test_a_page_of_another_model_shape_dtype_or_secret_is_a_miss(other: BlockFormat) -> None:
    assert other.decode(NAME, memoryview(stored())) is None


def test_a_page_under_another_name_is_a_miss() -> None:
    assert LAYOUT.decode(NAME[::-1], memoryview(stored())) is None


@given(st.data())
def test_any_damage_is_a_miss(data: st.DataObject) -> None:
    value = stored()
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= data.draw(st.integers(1, 255))
    assert LAYOUT.decode(NAME, memoryview(value)) is None
    assert LAYOUT.decode(NAME, memoryview(value[:at])) is None
    assert LAYOUT.decode(NAME, memoryview(value + b"\0")) is None


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
        assert LAYOUT.decode(NAME, memoryview(value)) is None


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_neither_written_nor_read(number: float) -> None:
    broken = page()
    broken[1, 2, 3, 1] = number
    assert LAYOUT.encode(NAME, broken) is None
    content = memoryview(bytearray(broken.view(torch.uint8).numpy().tobytes()))
    signed = LAYOUT._signed(NAME)
    value = bytearray().join([signed, LAYOUT._digest(signed, content), content])
    assert LAYOUT.decode(NAME, memoryview(value)) is None


def test_a_page_too_large_for_a_store_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(ModelRefused, match="at most"):
        made(page_size=10**9)


@given(st.binary(max_size=4096))
def test_garbage_is_a_miss(value: bytes) -> None:
    assert LAYOUT.decode(NAME, memoryview(bytearray(value))) is None


GOLDEN = (
    "53504b560200a0000000000000000100020000000800000002000000040000000004000000000000"
    "00040000000000009372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f0000000000000000"
    "0000000000000000733f371d837795e5e6c35b0765e08316dd726964b2800ed1e07ecaa2036b8831"
)
