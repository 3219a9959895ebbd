"""What the front end counts, for Prometheus; every label has few values."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from gateway.generation import Usage

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)


class Metrics:
    """Counters of one front end, in a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._requests = Counter(
            "spillway_requests",
            "Requests answered, by route, status and the tier that answered (none: refused).",
            ("route", "status", "tier"),
            registry=registry,
        )
        self._latency = Histogram(
            "spillway_request_duration_seconds",
            "From the request's headers to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._first_token = Histogram(
            "spillway_time_to_first_token_seconds",
            "From the request's headers to the first text.",
            ("tier",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "spillway_tokens",
            "Tokens tiers took in and wrote, for rejected answers too; a cached answer costs none.",
            ("tier", "kind"),
            registry=registry,
        )
        self._escalations = Counter(
            "spillway_escalations",
            "Answers rejected in favour of a larger tier, by the tier that gave them.",
            ("tier",),
            registry=registry,
        )
        self._cache = Counter(
            "spillway_response_cache", "Response cache lookups.", ("result",), registry=registry
        )
        self._in_flight = Gauge(
            "spillway_requests_in_flight", "Requests being answered.", registry=registry
        )
        self._waiting = Gauge(
            "spillway_requests_waiting", "Requests waiting for a place.", registry=registry
        )
        self._policy = Gauge(
            "spillway_policy_version", "Version of the policy in force.", registry=registry
        )
        self._usable = Gauge(
            "spillway_tier_usable",
            "Whether a request sent to the tier now may succeed.",
            ("tier",),
            registry=registry,
        )

    def watch(
        self,
        *,
        tiers: Iterable[tuple[str, Callable[[], bool]]],
        policy_version: Callable[[], int],
        running: Callable[[], int],
        waiting: Callable[[], int],
    ) -> None:
        """Read these whenever the metrics are read."""
        for name, usable in tiers:
            self._usable.labels(name).set_function(usable)
        self._policy.set_function(policy_version)
        self._in_flight.set_function(running)
        self._waiting.set_function(waiting)

    def answered(self, route: str, status: int, tier: str, seconds: float) -> None:
        """A response left, whatever it was."""
        self._requests.labels(route, str(status), tier).inc()
        self._latency.labels(route).observe(seconds)

    def first_token(self, tier: str, seconds: float) -> None:
        """The first text of an answer left."""
        self._first_token.labels(tier).observe(seconds)

    def used(self, tier: str, usage: Usage) -> None:
        """``tier`` gave a whole answer, whether a client sees it or not."""
        self._tokens.labels(tier, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(tier, "cached").inc(usage.cached_tokens)
        self._tokens.labels(tier, "completion").inc(usage.completion_tokens)

    def escalated(self, tier: str) -> None:
        """The answer of ``tier`` was not good enough."""
        self._escalations.labels(tier).inc()

    def cache(self, hit: bool) -> None:
        """The response cache was asked."""
        self._cache.labels("hit" if hit else "miss").inc()

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)
