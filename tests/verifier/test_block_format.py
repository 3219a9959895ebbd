"""A page survives the way to bytes and back; anything else is a miss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verifier.block_format import HEADER_BYTES, BlockFormat
from verifier.rows import CacheShape

NAME = bytes(range(32))
SHAPE = CacheShape(layers=2, heads=2, head_size=4, dtype=torch.float32)


def page(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(2, 8, 4, 4).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_page_comes_back_bit_for_bit(dtype: torch.dtype) -> None:
    layout = BlockFormat("model", SHAPE._replace(dtype=dtype), 8)
    value = layout.encode(NAME, page(dtype))
    assert value is not None
    assert len(value) == HEADER_BYTES + layout.content_bytes
    found = layout.decode(NAME, value)
    assert found is not None
    assert torch.equal(found, page(dtype))


def test_the_bytes_of_a_value_are_what_they_were() -> None:
    """Another layout needs another version, or an old value would be read as a new one."""
    import hashlib

    value = BlockFormat("model", SHAPE, 8).encode(NAME, torch.ones(2, 8, 4, 4))
    assert value is not None
    assert value[:8] == b"SWKV\x01\x00\x01\x00"
    digest = hashlib.sha256(value).hexdigest()
    assert digest == "6f5df7eb43e5b638a57b1d93dfcafc8c17e734f08bf7c8ae8824b5a7493e8816"


@pytest.mark.parametrize(
    "other",
    [
        BlockFormat("another model", SHAPE, 8),
        BlockFormat("model", SHAPE, 16),
        BlockFormat("model", SHAPE._replace(layers=4), 4),
        BlockFormat("model", SHAPE._replace(heads=1, head_size=8), 8),
        BlockFormat("model", SHAPE._replace(dtype=torch.bfloat16, head_size=8), 8),
    ],
)
def test_a_page_of_another_model_shape_or_dtype_is_a_miss(other: BlockFormat) -> None:
    value = BlockFormat("model", SHAPE, 8).encode(NAME, page())
    assert value is not None
    assert other.decode(NAME, value) is None


def test_a_page_under_another_name_is_a_miss() -> None:
    layout = BlockFormat("model", SHAPE, 8)
    value = layout.encode(NAME, page())
    assert value is not None
    assert layout.decode(NAME[::-1], value) is None


@given(st.data())
def test_any_damage_is_a_miss(data: st.DataObject) -> None:
    layout = BlockFormat("model", SHAPE, 8)
    value = bytearray(layout.encode(NAME, page()) or b"")
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= data.draw(st.integers(1, 255))
    assert layout.decode(NAME, bytes(value)) is None
    assert layout.decode(NAME, bytes(value[:at])) is None
    assert layout.decode(NAME, bytes(value) + b"\0") is None


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_neither_written_nor_read(number: float) -> None:
    layout = BlockFormat("model", SHAPE, 8)
    broken = page()
    broken[1, 2, 3, 1] = number
    assert layout.encode(NAME, broken) is None


@given(st.binary(max_size=4096))
def test_garbage_is_a_miss(value: bytes) -> None:
    assert BlockFormat("model", SHAPE, 8).decode(NAME, value) is None
