"""One page of keys and values as bytes that say what they are, so that anything else is a miss."""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from typing import Final

import torch
from blake3 import blake3
from torch import Tensor

from verifier.errors import ModelRefused
from verifier.rows import CacheShape

MAGIC: Final = b"SPKV"
VERSION: Final = 2
HEADER_BYTES: Final = 160
MOST_BYTES: Final = 64 * 2**20  # of one value
_RAW: Final = 0  # the only codec
_LAYER_TOKEN_HEAD: Final = 1
"""The only layout: [layers, tokens, 2 * heads, head size], heads of keys before those of values."""
_DTYPES: Final = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_SIGNED: Final = struct.Struct("<4sHHIBBBx4I2Q32s32s16x")
"""Magic, version, length of the header, flags; codec, dtype, layout; layers, tokens, heads, head
size; length as stored, length as used; fingerprint of the model, name of the page; zeros."""
_CONTEXT: Final = "spillway 2026 key-value blocks"


class BlockFormat:
    """Writes and reads the pages of one model. All numbers are little-endian.

    A value is a header of 160 bytes, then the page as it lies in memory. The header's last 32
    bytes are keyed BLAKE3 over the rest of it and the page: checksum and MAC in one.
    """

    def __init__(self, fingerprint: str, shape: CacheShape, page_size: int, secret: bytes) -> None:
        """``fingerprint``: of weights, tokenizer, dtype and device, as the model declares it.

        Raises:
            ModelRefused: a page takes more than ``MOST_BYTES``.
        """
        self._shape = (shape.layers, page_size, 2 * shape.heads, shape.head_size)
        self._dtype = shape.dtype
        self._model = hashlib.sha256(fingerprint.encode()).digest()
        self._key = blake3(secret, derive_key_context=_CONTEXT).digest()
        self.content_bytes = shape.bytes_per_token * page_size
        self.value_bytes = HEADER_BYTES + self.content_bytes
        if self.value_bytes > MOST_BYTES:
            raise ModelRefused(
                f"a page takes {self.value_bytes} bytes; a block store takes at most {MOST_BYTES}"
            )

    def encode(self, name: bytes, page: Tensor) -> tuple[bytes, memoryview] | None:
        """Header and content of ``page`` under its ``name`` (32 bytes), one to follow the other.

        None for a page with a number that is not finite. The content is not copied.
        """
        if not _finite(page):
            return None
        raw = page.contiguous().view(torch.uint8).view(-1)
        content = raw.numpy().data
        signed = self._signed(name)
        return signed + self._digest(signed, content), content

    def decode(self, name: bytes, value: memoryview) -> Tensor | None:
        """The page in ``value``, over the same memory; None unless it is just that page."""
        if len(value) != self.value_bytes:
            return None
        signed, content = self._signed(name), value[HEADER_BYTES:]
        if value[: _SIGNED.size] != signed:
            return None
        digest = bytes(value[_SIGNED.size : HEADER_BYTES])
        if not hmac.compare_digest(digest, self._digest(signed, content)):
            return None
        page = torch.frombuffer(content, dtype=self._dtype).view(self._shape)
        return page if _finite(page) else None

    def _signed(self, name: bytes) -> bytes:
        layers, tokens, both, size = self._shape
        length = self.content_bytes
        return _SIGNED.pack(
            MAGIC, VERSION, HEADER_BYTES, 0,
            _RAW, _DTYPES[self._dtype], _LAYER_TOKEN_HEAD,
            layers, tokens, both // 2, size,
            length, length, self._model, name,
        )  # fmt: skip

    def _digest(self, signed: bytes, content: memoryview) -> bytes:
        # One thread: several would not be faster on a machine whose other cores are at work.
        digest = blake3(signed, key=self._key)
        digest.update(content)
        return bytes(digest.digest())


def _finite(page: Tensor) -> bool:
    """Whether every number is: a sum keeps what is not, and takes a tenth of looking at each."""
    return math.isfinite(page.sum(dtype=torch.float32).item())
