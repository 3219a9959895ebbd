"""Values that say what they are and whose, so that garbage or somebody else's value is a miss."""

from __future__ import annotations

import hashlib
import hmac
import struct

MAGIC = b"SPWV"
FORMAT = 1
MAC_BYTES = 32
HEADER_BYTES = len(MAGIC) + 1 + MAC_BYTES


class Seal:
    """Seals values under names with a key derived from the gateway's secret.

    A sealed value is magic, format number, keyed BLAKE2b-256 over name and payload, payload. The
    name is under the MAC: a value that arrives under another name does not open.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.blake2b(secret, digest_size=32, person=b"spillway-seal").digest()

    def close(self, name: str, payload: bytes) -> bytes:
        """``payload`` as it may be stored under ``name``."""
        return MAGIC + bytes([FORMAT]) + self._mac(name, payload) + payload

    def open(self, name: str, raw: bytes | None) -> bytes | None:
        """The payload that was sealed under ``name``, None for anything else."""
        if raw is None or len(raw) < HEADER_BYTES or raw[:5] != MAGIC + bytes([FORMAT]):
            return None
        payload = raw[HEADER_BYTES:]
        mac = raw[5:HEADER_BYTES]
        return payload if hmac.compare_digest(mac, self._mac(name, payload)) else None

    def _mac(self, name: str, payload: bytes) -> bytes:
        label = name.encode()
        mac = hashlib.blake2b(key=self._key, digest_size=MAC_BYTES)
        mac.update(struct.pack("<BI", FORMAT, len(label)))
        mac.update(label)
        mac.update(payload)
        return mac.digest()
