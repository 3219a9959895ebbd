"""All tiers of a configuration at work: local engines supervised, every server watched."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gateway.config import Config, EngineConfig, TierConfig
from gateway.errors import ConfigError
from gateway.tiers.client import Address, TierClient, address_of
from gateway.tiers.health import watch
from gateway.tiers.scrape import Page, page_of
from gateway.tiers.supervisor import Supervisor, engine_command


@dataclass(frozen=True, slots=True)
class Fleet:
    """Tiers from cheap to expensive, and the engines that run as our children."""

    tiers: tuple[TierClient, ...]
    supervisors: tuple[Supervisor, ...]

    def ready(self) -> bool:
        """Whether any tier may answer a request now."""
        return any(tier.usable() for tier in self.tiers)

    def engine_pages(self) -> dict[str, Page]:
        """Where the metrics of each of our engines are read, by its name."""
        return {
            tier.config.engine: partial(page_of, tier)
            for tier in self.tiers
            if tier.config.engine is not None
        }

    def broken(self) -> dict[str, str]:
        """Engines that refused their configuration and are not started again, and why."""
        return {one.name: one.refused for one in self.supervisors if one.refused is not None}


@asynccontextmanager
async def running_fleet(config: Config) -> AsyncIterator[Fleet]:
    """Start everything; on leaving, stop everything and leave no process behind.

    Raises:
        ConfigError: an engine is to be started but the configuration came from no file.
    """
    async with AsyncExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spillway-")))
        tiers = tuple(_tier(one, config, sockets) for one in config.tiers)
        supervisors = tuple(_supervisor(one, config, sockets, tiers) for one in _used(config))
        stack.push_async_callback(_all, [one.stop for one in supervisors])
        for supervisor in supervisors:
            supervisor.start()
        stack.push_async_callback(_all, [one.close for one in tiers])
        watching = [asyncio.create_task(watch(one), name=f"watch {one.name}") for one in tiers]
        stack.push_async_callback(_cancel, watching)
        yield Fleet(tiers, supervisors)


def _used(config: Config) -> list[EngineConfig]:
    """Engines to start here: not remote, and some tier asks them."""
    asked = {tier.engine for tier in config.tiers}
    return [one for one in config.engines if one.url is None and one.name in asked]


def _tier(tier: TierConfig, config: Config, sockets: Path) -> TierClient:
    if tier.engine is None:
        return TierClient(tier, address_of(tier.url))
    return TierClient(tier, _engine_address(config.engine(tier.engine), sockets), ready=False)


def _engine_address(engine: EngineConfig, sockets: Path) -> Address:
    if engine.url is None:
        return address_of(f"unix:{_socket(sockets, engine)}")
    address = address_of(engine.url)
    return Address(f"{address.root()}/v1", address.socket)


def _socket(sockets: Path, engine: EngineConfig) -> Path:
    return sockets / f"{engine.name}.sock"


def _supervisor(
    engine: EngineConfig, config: Config, sockets: Path, tiers: tuple[TierClient, ...]
) -> Supervisor:
    if config.source is None:
        raise ConfigError(f"engine {engine.name!r} needs a configuration file to start from")
    mine = [tier for tier in tiers if tier.config.engine == engine.name]

    def ended() -> None:
        for tier in mine:
            tier.vitals.ready = False
            tier.vitals.suspect.set()

    command = engine_command(config.source, engine.name, _socket(sockets, engine))
    stop_within_s = engine.shutdown_s + 5.0
    return Supervisor(engine.name, command, stop_within_s=stop_within_s, on_exit=ended)


async def _all(stops: list[Callable[[], Awaitable[None]]]) -> None:
    await asyncio.gather(*(stop() for stop in stops), return_exceptions=True)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
