"""One page of keys and values as bytes that say what they are, so that anything else is a miss."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import torch
from torch import Tensor

from verifier.rows import CacheShape

MAGIC: Final = b"SWKV"
VERSION: Final = 1
_DTYPES: Final = {torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}
_FIELDS: Final = struct.Struct("<4sHHIIII32s32sQ")
"""Magic, version, dtype, layers, page size, heads, head size, model, name, bytes that follow."""
_CHECK_BYTES: Final = 32
HEADER_BYTES: Final = _FIELDS.size + _CHECK_BYTES


class BlockFormat:
    """Writes and reads the pages of one model.

    A value is the little-endian header, BLAKE2b-256 over header and content, then the content:
    the page [layers, page_size, 2 * heads, head_size] as it lies in memory. The checksum finds
    damage, not malice.
    """

    def __init__(self, fingerprint: str, shape: CacheShape, page_size: int) -> None:
        """``fingerprint``: of weights, tokenizer, dtype and device, as the model declares it."""
        self._shape = (shape.layers, page_size, 2 * shape.heads, shape.head_size)
        self._dtype = shape.dtype
        self._model = hashlib.sha256(fingerprint.encode()).digest()
        self.content_bytes = shape.bytes_per_token * page_size

    def encode(self, name: bytes, page: Tensor) -> bytes | None:
        """``page`` under its ``name`` (32 bytes); None for one with a number that is not finite."""
        if not torch.isfinite(page).all():
            return None
        content = page.contiguous().view(torch.uint8).numpy().tobytes()
        header = self._header(name)
        return header + _check(header, content) + content

    def decode(self, name: bytes, value: bytes) -> Tensor | None:
        """The page that ``value`` holds; None unless it is just the page of that name here."""
        if len(value) != HEADER_BYTES + self.content_bytes:
            return None
        view = memoryview(value)
        header, content = self._header(name), view[HEADER_BYTES:]
        if view[: _FIELDS.size] != header:
            return None
        if view[_FIELDS.size : HEADER_BYTES] != _check(header, content):
            return None
        page = torch.frombuffer(bytearray(content), dtype=self._dtype).view(self._shape)
        return page if bool(torch.isfinite(page).all()) else None

    def _header(self, name: bytes) -> bytes:
        return _FIELDS.pack(
            MAGIC,
            VERSION,
            _DTYPES[self._dtype],
            *self._shape,
            self._model,
            name,
            self.content_bytes,
        )


def _check(header: bytes, content: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(header, digest_size=_CHECK_BYTES)
    digest.update(content)
    return digest.digest()
