"""The secret that salts and MACs derive from, made once and kept in a file only we can read."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from gateway.errors import ConfigError

SHORTEST = 32  # bytes


def kept_secret(path: Path) -> bytes:
    """The secret kept at ``path``, made on first use with mode 0600.

    Raises:
        ConfigError: the place cannot be written, or what is there is too short to be a secret.
    """
    try:
        if not path.exists():
            _make(path)
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"secret: got {error.strerror} at {path}; expected a writable state_dir"
        ) from None
    if len(secret) < SHORTEST:
        raise ConfigError(f"secret: got {len(secret)} bytes in {path}; expected {SHORTEST} or more")
    return secret


def _make(path: Path) -> None:
    """Write aside and link into place: two processes starting at once agree on one secret."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(SHORTEST))
    with contextlib.suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()
