"""Who asks: API keys to identities, the salts that keep tenants apart, and which hosts we are."""

from __future__ import annotations

import hashlib
import hmac
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import ApiError, ConfigError
from gateway.generation import Identity

Role = Literal["reader", "operator", "admin", "metrics"]
ALL_ROLES: frozenset[str] = frozenset(("reader", "operator", "admin", "metrics"))
DEFAULT_TENANT = "default"
TENANT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_LONGEST_KEY = 512  # characters
_HOST = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[^\[\]:]+))(?::\d*)?")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tenant: Annotated[str, Field(pattern=TENANT_PATTERN)]
    roles: list[Role] = []
    models: list[str] | None = None


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key: Annotated[list[_Entry], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Key:
    """One accepted key, known only by its SHA-256."""

    digest: bytes
    identity: Identity


class Keys:
    """All accepted keys. Without any, whoever reaches the server is the default tenant."""

    def __init__(self, keys: Iterable[Key], *, anonymous: Identity | None = None) -> None:
        self._keys = tuple(keys)
        self._anonymous = anonymous

    @property
    def required(self) -> bool:
        """Whether a caller must show a key."""
        return self._anonymous is None

    @property
    def tenants(self) -> frozenset[str]:
        """Every tenant that has a key, or the default one where none are asked for."""
        keys = {key.identity.tenant for key in self._keys}
        return frozenset(keys if self._anonymous is None else {self._anonymous.tenant})

    def identify(self, authorization: str | None) -> Identity:
        """The identity behind an ``Authorization`` header.

        Every stored digest is compared, in constant time, whatever was found before.

        Raises:
            ApiError: 401 without a key, or with one nobody was given.
        """
        if self._anonymous is not None:
            return self._anonymous
        scheme, _, secret = (authorization or "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise _unauthorized("You did not provide an API key. Send it as a Bearer token.")
        digest = key_digest(secret[: _LONGEST_KEY + 1])
        found = [key for key in self._keys if hmac.compare_digest(key.digest, digest)]
        if not found or len(secret) > _LONGEST_KEY:
            raise _unauthorized("Incorrect API key provided.")
        return found[0].identity


def key_digest(secret: str) -> bytes:
    """What a keys file keeps, in hexadecimal, instead of the key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def cache_salt(secret: bytes, tenant: str) -> str:
    """The salt of one tenant's cache entries: nobody without ``secret`` can name another's."""
    message = b"spillway cache salt\0" + tenant.encode()
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def anonymous_keys(secret: bytes) -> Keys:
    """Everyone is the default tenant, with every role."""
    return Keys((), anonymous=_identity(secret, DEFAULT_TENANT, ALL_ROLES, None))


def load_keys(path: Path | None, secret: bytes) -> Keys:
    """Read ``keys.toml``; None means that no keys are asked for.

    Raises:
        ConfigError: unreadable, an unknown key in it, a bad hash, or one hash twice.
    """
    if path is None:
        return anonymous_keys(secret)
    entries = _read(path).key
    if len({entry.hash for entry in entries}) != len(entries):
        raise ConfigError(f"{path}: key: got one hash twice; expected distinct hashes")
    return Keys(
        Key(
            bytes.fromhex(entry.hash),
            _identity(secret, entry.tenant, entry.roles, entry.models),
        )
        for entry in entries
    )


def may_use(identity: Identity, model: str) -> bool:
    """Whether the key behind ``identity`` allows ``model``."""
    return identity.allowed_models is None or model in identity.allowed_models


def host_name(header: str) -> str:
    """The host of a ``Host`` header, lower case, without port and brackets; "" if it is none."""
    name = _HOST.fullmatch(header)
    return (name["v6"] or name["name"]).lower() if name else ""


def _identity(
    secret: bytes, tenant: str, roles: Iterable[str], models: Iterable[str] | None
) -> Identity:
    return Identity(
        tenant=tenant,
        roles=frozenset(roles),
        allowed_models=None if models is None else frozenset(models),
        cache_salt=cache_salt(secret, tenant),
    )


def _read(path: Path) -> _File:
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: got {error.strerror}; expected a readable file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise ConfigError(f"{path}: got text that is not TOML; expected [[key]] tables") from None
    try:
        return _File.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ConfigError(f"{path}: {place}: {first['msg']}") from None


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
