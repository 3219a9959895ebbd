"""What every engine counts, read from its own `/metrics` and told apart by a label."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import aiohttp
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from gateway.tiers.client import TierClient

Page = Callable[[], Awaitable[str | None]]
_WITHIN_S = 2.0
_MOST_BYTES = 256 * 1024


async def page_of(client: TierClient) -> str | None:
    """The metrics of the engine behind a tier; None if it does not give them soon."""
    timeout = aiohttp.ClientTimeout(total=_WITHIN_S)
    try:
        async with client.session.get(
            f"{client.address.root()}/metrics", timeout=timeout, allow_redirects=False
        ) as response:
            response.raise_for_status()
            page = await response.content.read(_MOST_BYTES + 1)
            while len(page) <= _MOST_BYTES and not response.content.at_eof():
                page += await response.content.read(_MOST_BYTES + 1 - len(page))
            return page.decode() if len(page) <= _MOST_BYTES else None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None


async def engines_exposition(pages: Mapping[str, Page]) -> bytes:
    """The metrics of all engines as one page; those that are silent have `up` 0 and no other."""
    found = await asyncio.gather(*(page() for page in pages.values()))
    registry = CollectorRegistry()
    registry.register(_Merged(dict(zip(pages, found, strict=True))))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, pages: Mapping[str, str | None]) -> None:
        self._pages = pages

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before it is collected."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Every family once, with the samples of every engine."""
        up = GaugeMetricFamily("spillway_engine_up", "Whether it told", labels=["engine"])
        merged: dict[str, Metric] = {}
        for engine, page in self._pages.items():
            families = _families(page)
            up.add_metric([engine], float(families is not None))
            for family in families or ():
                kept = merged.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                kept.samples += [
                    one._replace(labels={**one.labels, "engine": engine}) for one in family.samples
                ]
        return [up, *merged.values()]


def _families(page: str | None) -> list[Metric] | None:
    """None for a page that is no exposition."""
    if page is None:
        return None
    try:
        return list(text_string_to_metric_families(page))
    except (ValueError, IndexError, KeyError):
        return None
