"""Makes an API key and the entry of `keys.toml` that lets it in."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from gateway.errors import ConfigError
from gateway.keys import ALL_ROLES, TENANT_PATTERN, key_digest

_PREFIX = "sk-spillway-"


class NewKey(NamedTuple):
    """The key, which is kept nowhere, and what to put in the file."""

    key: str
    entry: str


def new_key(tenant: str, *, roles: Sequence[str] = (), models: Sequence[str] = ()) -> NewKey:
    """A key of 256 random bits for ``tenant``; no ``models`` means all of them.

    Raises:
        ConfigError: an unknown role, or a tenant that no keys file may hold.
    """
    if not re.fullmatch(TENANT_PATTERN, tenant):
        raise ConfigError(f"tenant: got {tenant!r}; expected it to match {TENANT_PATTERN}")
    unknown = sorted(set(roles) - ALL_ROLES)
    if unknown:
        raise ConfigError(f"role: got {unknown[0]!r}; expected one of {sorted(ALL_ROLES)}")
    key = _PREFIX + secrets.token_urlsafe(32)
    lines = [
        "[[key]]",
        f'hash = "{key_digest(key).hex()}"',
        f"tenant = {json.dumps(tenant)}",
        f"roles = {json.dumps(list(roles))}",
    ]
    if models:
        lines.append(f"models = {json.dumps(list(models))}")
    return NewKey(key, "\n".join(lines))
