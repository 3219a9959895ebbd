"""Runs the front end until it is told to stop, then lets running requests finish."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from gateway.app import create_app
from gateway.config import Config, load_config
from gateway.errors import ConfigError
from gateway.faces.front import FRONT, Front
from gateway.wire.server import listener

_POLL_S = 0.05
_LAST_WORDS_S = 1.0
"""For handlers that outlived the time to finish: they are cancelled, and may tell their clients."""


def serve(path: Path, *, host: str | None = None, port: int | None = None) -> int:
    """Serve the configuration at ``path``; returns the exit status.

    Raises:
        ConfigError: it cannot be used, or the address is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    config = load_config(path, os.environ | _overrides(host, port))
    asyncio.run(_serve(config))
    return 0


def _overrides(host: str | None, port: int | None) -> Mapping[str, str]:
    given = {"SPILLWAY_HOST": host, "SPILLWAY_PORT": port}
    return {key: str(value) for key, value in given.items() if value is not None}


async def _serve(config: Config) -> None:
    stop = _stop_signal()
    app = create_app(config)
    runner = listener(app, keepalive_s=config.server.keepalive_s, shutdown_s=_LAST_WORDS_S)
    try:
        await runner.setup()
        await _listen(runner, config)
        greeting = asyncio.create_task(_greet(app[FRONT], runner, config))
        await stop.wait()
        greeting.cancel()
        await _drain(app[FRONT], config.server.shutdown_s)
    finally:
        await runner.cleanup()


def _stop_signal() -> asyncio.Event:
    """Set at the first SIGINT or SIGTERM; the second ends the wait for running requests at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None

    def asked() -> None:
        if stop.is_set():
            main.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    return stop


async def _listen(runner: web.AppRunner, config: Config) -> None:
    host, port = config.server.host, config.server.port
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise ConfigError(
            f"server.port: got {host}:{port}, which cannot be listened on ({error.strerror}); "
            "expected a free address"
        ) from None


async def _drain(front: Front, within_s: float) -> None:
    """Readiness goes first; whoever is being answered may finish."""
    front.draining = True
    deadline = time.monotonic() + within_s
    admission = front.admission
    while (admission.running or admission.waiting) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)


async def _greet(front: Front, runner: web.AppRunner, config: Config) -> None:
    """Say where we are, and once a tier is ready what to try."""
    url = _url(runner, config.server.host)
    print(f"Spillway listens on {url}; loading models ...", flush=True)
    while not front.ready():  # noqa: ASYNC110 - it depends on clocks too
        await asyncio.sleep(_POLL_S)
    print(_invitation(url, config), flush=True)


def _url(runner: web.AppRunner, host: str) -> str:
    port = runner.addresses[0][1]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _invitation(url: str, config: Config) -> str:
    """Three requests that work as they are printed."""
    largest = config.tiers[-1].name
    key = ' -H "authorization: Bearer $SPILLWAY_KEY"' if config.server.keys_file else ""
    token = ' -H "authorization: Bearer $SPILLWAY_ADMIN_TOKEN"' if config.admin_token else key
    chat = f"curl {url}/v1/chat/completions{key} -H 'content-type: application/json' -d"
    question = '"messages": [{"role": "user", "content": "Spell backwards: river"}]'
    return f"""
Ready: {url}   (Ctrl-C stops it)

Ask; the cheapest model that is good enough answers, and the receipt says which and why:
  {chat} \\
    '{{"model": "auto", {question}, "spillway": {{"receipt": true}}}}'

Ask {largest} alone, streamed:
  {chat} \\
    '{{"model": "{largest}", {question}, "stream": true}}'

See the thresholds that decide:
  curl {url}/admin/cascade{token}
"""
