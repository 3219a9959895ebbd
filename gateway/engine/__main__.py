"""One engine process: loads its models, answers until told to stop, finishes what runs, ends."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from aiohttp import web
from transformers.utils.logging import disable_progress_bar

from gateway.commands.engine import add_options, check_options
from gateway.config import DraftConfig, EngineConfig, ModelConfig, load_engine
from gateway.engine.block_store import block_secret, open_block_store
from gateway.engine.server import Service, create_engine_app, service_of
from gateway.engine.tokens import Served
from gateway.errors import ConfigError
from gateway.wire.server import listener
from verifier.block_courier import BlockPolicy
from verifier.blocks import BlockStore
from verifier.engine import Engine
from verifier.engine import EngineConfig as EngineLimits
from verifier.errors import VerifierError
from verifier.loading import load_model
from verifier.prediction import Planned, check_fits

KEY_VARIABLE = "SPILLWAY_ENGINE_KEY"
_FAILED = 70  # exit status after the engine broke, so that a supervisor restarts it
_BAD_CONFIG = 78
_LAST_WORDS_S = 1.0
_log = logging.getLogger("gateway.engine")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen: a unix socket, or a host and port."""

    socket: Path | None
    host: str
    port: int

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else f"http://{self.host}:{self.port}/v1"


def build_service(
    config: EngineConfig, *, key: str | None = None, block_secret: bytes = b""
) -> Service:
    """Load every model of ``config`` and an engine over them.

    ``key``: what callers must show. ``block_secret``: of the MACs of stored pages.

    Raises:
        ModelRefused: a directory that cannot be served, or more memory than is free.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    limits = replace(_limits(config), block_secret=block_secret)
    planned = [Planned(one.name, one.path, one.dtype) for one in config.models]
    for needs in check_fits(planned, limits, config.device):
        _log.info("model %s at most", needs)
    models = {
        one.name: load_model(one.path, dtype=one.dtype, device=config.device, name=one.name)
        for one in config.models
    }
    engine = Engine(models, limits, blocks=_block_store(config))
    return service_of(engine, [Served(one) for one in models.values()], key=key)


def _limits(config: EngineConfig) -> EngineLimits:
    limits = EngineLimits(
        page_size=config.page_size,
        pages=config.pages,
        cache_bytes=config.cache_bytes,
        max_running=config.max_running,
        max_waiting=config.max_queue,
        step_tokens=config.step_tokens if config.chunked_prefill else None,
        order=config.order,
        block_policy=BlockPolicy(
            fetch=config.block_fetch,
            wait_s=config.block_wait_s,
            audit_every=config.block_audit_every,
        ),
        max_nodes=config.max_nodes,
        speculation=config.speculation,
        draft_models={one.name: one.draft.model for one in config.models if one.draft.model},
        exit_layers={one.name: one.draft.layers for one in config.models if one.draft.layers},
    )
    return limits if config.sources is None else replace(limits, sources=config.sources)


def _block_store(config: EngineConfig) -> BlockStore | None:
    return open_block_store(
        config.block_store,
        ttl_s=config.block_store_ttl_s,
        memory_bytes=config.block_store_bytes,
        share=config.block_store_share,
    )


async def serve(service: Service, config: EngineConfig, listen: Listen) -> int:
    """Answer until SIGTERM, SIGINT or a failure; returns the exit status."""
    app = create_engine_app(service, max_body_bytes=config.max_body_bytes)
    runner = listener(app, shutdown_s=_LAST_WORDS_S)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await runner.setup()
    await _site(runner, listen).start()
    _log.info("ready on %s: %s", listen, ", ".join(service.models))
    await _first(stop, service.worker.failed)
    service.draining = True
    if not service.worker.failed.is_set():
        await _drained(service, config.shutdown_s)
    await runner.cleanup()
    return _FAILED if service.worker.failed.is_set() else 0


def _site(runner: web.AppRunner, listen: Listen) -> web.BaseSite:
    if listen.socket is None:
        return web.TCPSite(runner, listen.host, listen.port)
    with suppress(FileNotFoundError):
        listen.socket.unlink()  # what a killed predecessor left
    return web.UnixSite(runner, str(listen.socket))


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(one.wait()) for one in events]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


async def _drained(service: Service, within_s: float) -> None:
    """Wait until nothing runs, the engine breaks, or the time is over."""
    deadline = time.monotonic() + within_s
    while service.worker.active and time.monotonic() < deadline:
        if service.worker.failed.is_set():
            return
        await asyncio.sleep(0.02)


def end_with_parent(grace_s: float) -> None:
    """Stop when stdin ends: the parent holds its other end, and is gone however it died."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os._exit(_FAILED)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="spillway engine", description=__doc__)
    add_options(parser)
    options = parser.parse_args(argv)
    check_options(parser, options)
    return options


def _config_of(options: argparse.Namespace) -> EngineConfig:
    if options.config is not None:
        config = load_engine(options.config, options.engine)
        device = options.device or config.device
        return config.model_copy(update={"device": device})
    pairs = [_named(given) for given in options.model]
    models = tuple(
        ModelConfig(
            name=name,
            path=path,
            dtype=options.dtype,
            draft=DraftConfig(model=options.draft if options.draft != name else None),
        )
        for name, path in pairs
    )
    return EngineConfig(
        name="engine", models=models, device=options.device or "cpu", threads=options.threads
    )


def _named(given: str) -> tuple[str, Path]:
    """``name=path``, or a path whose last part is the name."""
    name, found, path = given.partition("=")
    return (name, Path(path)) if found else (Path(given).absolute().name, Path(given))


def main(argv: list[str] | None = None) -> int:
    """Run an engine; the exit status says why it ended."""
    options = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if options.end_with_stdin:
        end_with_parent(30.0)
    disable_progress_bar()
    try:
        config = _config_of(options)
        service = build_service(
            config,
            key=os.environ.get(KEY_VARIABLE) or None,
            block_secret=block_secret(options.config) if config.block_store else b"",
        )
    except (ConfigError, VerifierError, ValueError) as error:
        print(f"spillway engine: {error}", file=sys.stderr)
        return _BAD_CONFIG
    listen = Listen(options.socket, options.host, options.port)
    return asyncio.run(serve(service, config, listen))


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)  # everything is closed; taking torch apart would cost a second of CPU
