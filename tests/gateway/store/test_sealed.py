"""Only what was sealed under this name with this secret opens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.store.sealed import HEADER_BYTES, Seal

SEAL = Seal(b"s" * 32)


@given(st.text(), st.binary())
def test_what_was_sealed_opens(name: str, payload: bytes) -> None:
    assert SEAL.open(name, SEAL.close(name, payload)) == payload


@given(st.binary(min_size=1), st.data())
def test_any_change_of_any_byte_is_noticed(payload: bytes, data: st.DataObject) -> None:
    sealed = bytearray(SEAL.close("k", payload))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    assert SEAL.open("k", bytes(sealed)) is None


@given(st.binary(), st.integers(0, 200))
def test_anything_cut_short_or_made_up_is_nothing(payload: bytes, length: int) -> None:
    sealed = SEAL.close("k", payload)
    if length < len(sealed):
        assert SEAL.open("k", sealed[:length]) is None
    assert SEAL.open("k", payload) is None
    assert SEAL.open("k", sealed + b"x") is None
    assert SEAL.open("k", None) is None


@given(st.text(), st.text(), st.binary())
def test_a_value_under_another_name_or_secret_is_nothing(
    name: str, other: str, payload: bytes
) -> None:
    sealed = SEAL.close(name, payload)
    assert (SEAL.open(other, sealed) is None) == (name != other)
    assert Seal(b"t" * 32).open(name, sealed) is None


def test_the_bytes_of_a_sealed_value_stay_as_they_are() -> None:
    sealed = SEAL.close("name", b"payload")
    assert sealed[:5] == b"SPWV\x01"
    assert sealed[5:HEADER_BYTES].hex() == GOLDEN
    assert sealed[HEADER_BYTES:] == b"payload"


GOLDEN = "3d3e45b815ec505cf50877781ba4eb1ecf80e3a5a526e19a771857a7410a1bf6"
