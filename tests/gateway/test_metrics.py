"""Counters and gauges say what they were told, in Prometheus' own words."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from gateway.generation import Usage
from gateway.metrics import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def test_each_event_is_counted_under_its_labels() -> None:
    metrics = Metrics()
    metrics.answered("/v1/x", 200, "brook", 0.3)
    metrics.used("brook", Usage(prompt_tokens=5, completion_tokens=7, cached_tokens=2))
    metrics.escalated("brook")
    metrics.cache(True)
    metrics.cache(False)
    metrics.first_token("brook", 0.1)
    assert value(metrics, "spillway_requests_total", route="/v1/x", status="200", tier="brook") == 1
    assert value(metrics, "spillway_tokens_total", tier="brook", kind="completion") == 7
    assert value(metrics, "spillway_escalations_total", tier="brook") == 1
    assert value(metrics, "spillway_response_cache_total", result="hit") == 1
    assert value(metrics, "spillway_response_cache_total", result="miss") == 1
    assert value(metrics, "spillway_request_duration_seconds_sum", route="/v1/x") == 0.3


def test_gauges_are_read_when_asked() -> None:
    metrics, state = Metrics(), {"up": True, "version": 1}
    metrics.watch(
        tiers=[("brook", lambda: bool(state["up"]))],
        policy_version=lambda: int(state["version"]),
        running=lambda: 3,
        waiting=lambda: 4,
    )
    assert value(metrics, "spillway_tier_usable", tier="brook") == 1
    state.update(up=False, version=2)
    assert value(metrics, "spillway_tier_usable", tier="brook") == 0
    assert value(metrics, "spillway_policy_version") == 2
    assert value(metrics, "spillway_requests_in_flight") == 3
    assert value(metrics, "spillway_requests_waiting") == 4


def test_two_front_ends_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.escalated("brook")
    assert value(other, "spillway_escalations_total", tier="brook") is None
