"""Asks a tier's server, again and again, whether it is well and which weights it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from gateway.tiers.client import TierClient

_log = logging.getLogger(__name__)
_PROBE_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
_LEAST_PAUSE_S = 0.05  # between probes, however loudly somebody asks for one
_UNWELL = frozenset((401, 403, 408, 429, 502, 503, 504))
"""A foreign server may fail at listing its models and still answer; these say that it would not."""
_LONGEST_BODY = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two probes."""

    when_ready_s: float
    when_not_s: float


OWN = Pace(2.0, 0.25)
FOREIGN = Pace(15.0, 3.0)


async def watch(client: TierClient, pace: Pace | None = None) -> None:
    """Keep ``client.vitals`` true until cancelled."""
    pace = pace or (OWN if client.config.engine else FOREIGN)
    while True:
        await probe(client)
        pause_s = pace.when_ready_s if client.vitals.ready else pace.when_not_s
        await _pause(client.vitals.suspect, pause_s)


async def probe(client: TierClient) -> None:
    """Ask once. A server that does not list its models is taken to be well if it answers."""
    try:
        found = await _ask(client)
        reason = "it does not list the model" if found is None else ""
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        found, reason = None, str(error) or type(error).__name__
    if (found is not None) != client.vitals.ready:
        well = "ready" if found is not None else f"not ready: {reason}"
        _log.log(
            logging.INFO if found is not None else logging.WARNING,
            "tier %s is %s",
            client.name,
            well,
        )
    client.vitals.ready = found is not None
    if found is not None:
        client.vitals.fingerprint = _text(found.get("fingerprint"))
        client.vitals.max_model_len = _positive(found.get("max_model_len"))


async def _ask(client: TierClient) -> Mapping[str, Any] | None:
    """The server's entry for our model: {} if it lists none at all, None if it lists others."""
    if client.config.engine:
        await _get(client, f"{client.address.root()}/readyz")
    try:
        listed = await _get(client, f"{client.address.base}/models")
    except aiohttp.ClientResponseError as error:
        if client.config.engine or error.status in _UNWELL:
            raise
        return {}
    entries = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(entries, list):
        return {}
    for entry in entries:
        if isinstance(entry, dict) and entry.get("id") == client.config.served_model:
            return entry
    return None if client.config.engine else {}


async def _get(client: TierClient, url: str) -> Any:
    async with client.session.get(url, timeout=_PROBE_TIMEOUT, allow_redirects=False) as response:
        response.raise_for_status()
        if (response.content_length or 0) > _LONGEST_BODY:
            raise ValueError(f"got {response.content_length} bytes from {url}")
        return await response.json(content_type=None)


async def _pause(suspect: asyncio.Event, longest_s: float) -> None:
    await asyncio.sleep(_LEAST_PAUSE_S)
    try:
        async with asyncio.timeout(longest_s):
            await suspect.wait()
    except TimeoutError:
        pass
    suspect.clear()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
