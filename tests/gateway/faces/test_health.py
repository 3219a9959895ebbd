"""Liveness depends on nothing, readiness on a tier, and the counters on what happened."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families


async def status(served: Any, path: str) -> int:
    async with served.http.get(served.url + path) as response:
        return int(response.status)


async def metrics(served: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    async with served.http.get(served.url + "/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        text = await response.text()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_ready_means_one_usable_tier_and_not_draining(served: Any) -> None:
    tiers = served.front.tiers
    assert await status(served, "/readyz") == 200
    tiers["brook"].up = False
    assert await status(served, "/readyz") == 200
    tiers["river"].up = False
    assert await status(served, "/readyz") == 503
    assert await status(served, "/livez") == 200
    tiers["river"].up = True
    served.front.draining = True
    assert await status(served, "/readyz") == 503
    assert await status(served, "/livez") == 200


async def test_an_engine_that_was_given_up_is_named_and_its_reason_is_not(served: Any) -> None:
    served.front.broken = lambda: {"large": "got no directory /secret/place"}
    async with served.http.get(served.url + "/readyz") as response:
        assert await response.json() == {"status": "ready", "broken_engines": ["large"]}
    for tier in served.front.tiers.values():
        tier.up = False
    async with served.http.get(served.url + "/readyz") as response:
        assert response.status == 503
        assert (await response.json())["broken_engines"] == ["large"]


async def test_what_was_answered_is_counted_by_route_status_and_tier(served: Any) -> None:
    await served.chat()
    await served.chat(stream=False, model="river")
    await served.chat(model="lake")
    for path in ("/a", "/b", "/c"):
        await status(served, path)
    told = await metrics(served)

    def requests(**labels: str) -> float:
        return told[("spillway_requests_total", tuple(sorted(labels.items())))]

    chat = "/v1/chat/completions"
    assert requests(route=chat, status="200", tier="brook") == 1
    assert requests(route=chat, status="200", tier="river") == 1
    assert requests(route=chat, status="404", tier="none") == 1
    assert requests(route="unmatched", status="404", tier="none") == 3
    first = "spillway_time_to_first_token_seconds_count"
    assert told[(first, (("tier", "river"),))] == 1
    assert told[("spillway_request_duration_seconds_count", (("route", chat),))] == 3


async def test_models_a_client_invents_never_become_labels(served: Any) -> None:
    for at in range(5):
        await served.chat(model=f"invented{at}")
    assert not any("invented" in str(key) for key in await metrics(served))
