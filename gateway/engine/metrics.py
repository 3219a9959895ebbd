"""The engine's counters in Prometheus' words, read from the engine when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from verifier.engine import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_GAUGES = {
    "running": ("requests_running", "Requests being decoded"),
    "waiting": ("requests_waiting", "Requests in the queue"),
    "batch_size": ("batch_size", "Requests in the latest step"),
    "pages_used": ("pages_used", "Pages of keys and values in use"),
    "pages_total": ("pages", "Pages of keys and values there are"),
    "blocks_off": ("block_store_off", "1 when the block store gave a wrong page; never used again"),
    "block_fetch_s": ("block_store_fetch_seconds", "What one page more takes to fetch"),
    "block_compute_s": ("block_store_compute_seconds", "What one page takes to compute"),
}
_COUNTERS = {
    "steps": ("steps", "Forwards of the target"),
    "prompt_tokens": ("prompt_tokens", "Prompt tokens taken in"),
    "output_tokens": ("output_tokens", "Tokens emitted"),
    "prefix_hit_tokens": ("prefix_hit_tokens", "Prompt tokens found in cached pages"),
    "block_hit_tokens": ("block_hit_tokens", "Of these, tokens that a block store gave back"),
    "preemptions": ("preemptions", "Requests set back for want of pages"),
    "drafts": ("drafts", "Verifications that carried a draft"),
    "drafted": ("drafted_tokens", "Draft tokens verified"),
    "accepted": ("accepted_tokens", "Draft tokens accepted"),
    "narrow_margins": ("narrow_margins", "Decisions within the rounding margin"),
    "step_seconds": ("step_seconds", "Time spent in steps"),
    "forward_seconds": ("forward_seconds", "Time spent in forwards of the target"),
}
_PREFIX = "spillway_engine_"


class EngineMetrics(Collector):
    """Exposes ``Engine.stats()``; nothing is counted twice, so receipts and metrics agree."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """The page a scraper reads."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Every family, labelled by model."""
        stats = self._stats()
        for field, (name, about) in _GAUGES.items():
            gauge = GaugeMetricFamily(_PREFIX + name, about, labels=["model"])
            for model, found in stats.models.items():
                gauge.add_metric([model], getattr(found, field))
            yield gauge
        for field, (name, about) in _COUNTERS.items():
            counter = CounterMetricFamily(_PREFIX + name, about, labels=["model"])
            for model, found in stats.models.items():
                counter.add_metric([model], getattr(found, field))
            yield counter
        yield _blocks(stats)
        yield _info(stats)
        yield _by_position(stats)
        yield _draft_failures(stats)
        yield from _by_source(stats)


def _blocks(stats: EngineStats) -> Metric:
    family = CounterMetricFamily(
        _PREFIX + "block_store_pages",
        "Pages of keys and values by what became of them at the block store",
        labels=["model", "result"],
    )
    for model, found in stats.models.items():
        for result, count in found.blocks.items():
            family.add_metric([model, result], count)
    return family


def _info(stats: EngineStats) -> Metric:
    family = GaugeMetricFamily(
        _PREFIX + "model_info", "1; how each model is computed", labels=["model", "path", "dtype"]
    )
    for model, found in stats.models.items():
        family.add_metric([model, found.path, found.dtype], 1)
    return family


def _by_position(stats: EngineStats) -> Metric:
    family = CounterMetricFamily(
        _PREFIX + "accepted_by_position",
        "Verifications that accepted a draft token at this depth",
        labels=["model", "position"],
    )
    for model, found in stats.models.items():
        for position, count in enumerate(found.accepted_by_position):
            family.add_metric([model, str(position)], count)
    return family


def _draft_failures(stats: EngineStats) -> Metric:
    family = CounterMetricFamily(
        _PREFIX + "draft_failures",
        "Errors while drafting, by the source or the step; the requests went on without drafts",
        labels=["model", "part"],
    )
    for model, found in stats.models.items():
        for part, count in found.draft_failures.items():
            family.add_metric([model, part], count)
    return family


def _by_source(stats: EngineStats) -> Iterator[Metric]:
    for field, about in (("proposed", "Draft tokens proposed"), ("accepted", "Of them accepted")):
        family = CounterMetricFamily(
            f"{_PREFIX}source_{field}_tokens", f"{about}, by source", labels=["model", "source"]
        )
        for model, found in stats.models.items():
            for source, count in found.by_source.items():
                family.add_metric([model, source], getattr(count, field))
        yield family
