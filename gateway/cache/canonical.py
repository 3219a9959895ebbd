"""One byte string for each JSON value, such that different values never share one."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence

from gateway.generation import Json

MAX_DEPTH = 64


class NotCanonical(ValueError):
    """A value that is not JSON, or nested too deeply."""


def canonical(value: Json) -> bytes:
    """Type, length and content of ``value``, recursively. The order of an object's keys counts:
    a chat template may render a schema as it was written.

    Raises:
        NotCanonical: NaN, infinity, something that is not JSON, or too deep.
    """
    pieces: list[bytes] = []
    _write(value, pieces, 0)
    return b"".join(pieces)


def canonical_fields(fields: Mapping[str, Json]) -> bytes:
    """``canonical`` of a request's fields, whose own order means nothing, sorted by name.

    A field that is a whole number is the same as 0 and as 0.0.
    """
    return canonical({name: _plain_number(fields[name]) for name in sorted(fields)})


def _plain_number(value: Json) -> Json:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _write(value: Json, pieces: list[bytes], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise NotCanonical(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        _sized(b"s", value.encode("utf-8", "surrogatepass"), pieces)
    elif isinstance(value, Mapping):
        pieces.append(b"m" + struct.pack("<Q", len(value)))
        for key, inner in value.items():
            _write_key(key, pieces)
            _write(inner, pieces, depth + 1)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        pieces.append(b"l" + struct.pack("<Q", len(value)))
        for inner in value:
            _write(inner, pieces, depth + 1)
    else:
        _write_scalar(value, pieces)


def _write_key(key: Json, pieces: list[bytes]) -> None:
    if not isinstance(key, str):
        raise NotCanonical(f"got a key of type {type(key).__name__}; expected str")
    _sized(b"k", key.encode("utf-8", "surrogatepass"), pieces)


def _write_scalar(value: Json, pieces: list[bytes]) -> None:
    if value is None:
        pieces.append(b"n")
    elif isinstance(value, bool):
        pieces.append(b"t" if value else b"f")
    elif isinstance(value, int):
        _sized(b"i", b"%x" % value, pieces)
    elif isinstance(value, float) and math.isfinite(value):
        pieces.append(b"d" + struct.pack("<d", value))
    else:
        raise NotCanonical(f"got {type(value).__name__} {str(value)[:32]}; expected JSON")


def _sized(tag: bytes, content: bytes, pieces: list[bytes]) -> None:
    pieces.append(tag + struct.pack("<Q", len(content)))
    pieces.append(content)
