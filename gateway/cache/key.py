"""Which requests may share an answer: those that agree in everything that can change it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from gateway.cache.canonical import NotCanonical, canonical, canonical_fields
from gateway.generation import Job, Tier

SCHEMA = 2
"""Raised whenever the meaning of a key or the shape of an entry changes."""
_MOST_TENANTS = 4096  # remembered, so that their MAC is not computed for each request
PREFIX = f"spillway:rc:{SCHEMA}:"
"""What every key begins with; the tenant's MAC and the digest of the request follow."""


class Keys:
    """Makes keys with a tenant MAC derived from the gateway's secret."""

    def __init__(self, secret: bytes) -> None:
        self._tenants: dict[str, str] = {}
        self._secret = hashlib.blake2b(secret, digest_size=32, person=b"spillway-tenant").digest()

    def of(self, job: Job, tiers: Sequence[Tier]) -> str | None:
        """The key of a request that ``tiers``, in this order, may answer.

        None when it has no key: a tier's fingerprint is unknown, or a field is not JSON.
        """
        prints = [(tier.name, tier.fingerprint) for tier in tiers]
        if not prints or any(fingerprint is None for _, fingerprint in prints):
            return None
        tenant = self.tenant(job.identity.tenant)
        try:
            fields = [
                canonical(["spillway.response", SCHEMA, job.endpoint, job.model, tenant]),
                canonical([list(pair) for pair in prints]),
                canonical_fields(job.speculation or {}),
                canonical_fields(job.body),
            ]
        except NotCanonical:
            return None
        return f"{PREFIX}{tenant}:{_digest(fields)}"

    def tenant(self, tenant: str) -> str:
        """The tenant's name as it may be stored: 128 bits of its HMAC, in hex."""
        known = self._tenants.get(tenant)
        if known is None:
            mac = hmac.new(self._secret, tenant.encode("utf-8", "surrogatepass"), hashlib.sha256)
            known = mac.hexdigest()[:32]
            if len(self._tenants) < _MOST_TENANTS:
                self._tenants[tenant] = known
        return known


def parts_of(key: str) -> tuple[str, str] | None:
    """The tenant's MAC and the request's digest of a key, None if it is none of ours."""
    tenant, _, digest = key.removeprefix(PREFIX).partition(":")
    ours = key.startswith(PREFIX) and len(tenant) == 32 and len(digest) == 64
    return (tenant, digest) if ours else None


def _digest(fields: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for one in fields:
        digest.update(len(one).to_bytes(8, "little"))
        digest.update(one)
    return digest.hexdigest()
