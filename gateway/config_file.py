"""The configuration as it is written: the TOML file, and the environment laid over it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.errors import ConfigError

_ENVIRONMENT: dict[str, tuple[str, ...]] = {
    "SPILLWAY_HOST": ("server", "host"),
    "SPILLWAY_PORT": ("server", "port"),
    "SPILLWAY_KEYS_FILE": ("server", "keys_file"),
    "SPILLWAY_ALLOW_ANONYMOUS": ("server", "allow_anonymous"),
    "SPILLWAY_ALLOWED_HOSTS": ("server", "allowed_hosts"),
    "SPILLWAY_REDIS_URL": ("redis", "url"),
    "SPILLWAY_STATE_DIR": ("state_dir",),
    "SPILLWAY_ADMIN_TOKEN": ("admin_token",),
    "SPILLWAY_SECRET": ("secret",),
}
ENGINE_URL = "SPILLWAY_ENGINE_URL"
"""Where the only engine runs; ``SPILLWAY_ENGINE_URL_<NAME>`` is that of one among several."""
ENGINE_DEVICE = "SPILLWAY_ENGINE_DEVICE"
"""Where every engine computes."""
ENGINE_BLOCK_STORE = "SPILLWAY_ENGINE_BLOCK_STORE"
"""Where the pages of every engine outlive it."""


def apply_environment(document: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Put every variable that is set and not empty in its place in the document."""
    for variable, keys in _ENVIRONMENT.items():
        if value := environ.get(variable):
            section = document
            for key in keys[:-1]:
                section = _table(section, key)
            section[keys[-1]] = value
    engines = entries(document, "engines")
    for engine in engines:
        suffix = re.sub(r"\W", "_", str(engine.get("name", ""))).upper()
        only = environ.get(ENGINE_URL) if len(engines) == 1 else None
        if url := environ.get(f"{ENGINE_URL}_{suffix}") or only:
            engine["url"] = url
        if device := environ.get(ENGINE_DEVICE):
            engine["device"] = device
        if store := environ.get(ENGINE_BLOCK_STORE):
            engine["block_store"] = store


def fill_api_key(tier: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Put the key that ``api_key_env`` names beside it.

    Raises:
        ConfigError: the variable is not set, or the file itself holds a key.
    """
    if "api_key" in tier:
        raise ConfigError("tiers: api_key: got a value; expected api_key_env, a variable's name")
    variable = tier.get("api_key_env")
    if not isinstance(variable, str):
        return
    if not environ.get(variable):
        raise ConfigError(f"tiers: api_key_env: got {variable!r}, which is not set; expected a key")
    tier["api_key"] = environ[variable]


def _table(section: dict[str, Any], key: str) -> dict[str, Any]:
    table = section.setdefault(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{key}: got {table!r}; expected a table")
    return table


def entries(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The tables of an array of tables; what is none is left for the schema to refuse."""
    found = document.get(key, [])
    if not isinstance(found, list):
        return []
    return [entry for entry in found if isinstance(entry, dict)]


def read_toml(path: Path) -> dict[str, Any]:
    """Raises ConfigError for what cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: got {error.strerror}; expected a readable file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: got text that is not TOML: {error}") from None
