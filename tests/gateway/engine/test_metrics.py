"""What an engine counts adds up, and is what its receipts say."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

TEXTS = ["the quick brown fox " * 3, "lazy dog jumps", "over " * 9, "brown fox over the lazy dog"]


async def _samples(client: Any) -> Counter[tuple[str, str]]:
    """Samples of the model `large`, each with its one other label, if it has one."""
    async with client.session.get("/metrics") as response:
        page = await response.text()
    found: Counter[tuple[str, str]] = Counter()
    for family in text_string_to_metric_families(page):
        for one in family.samples:
            labels = dict(one.labels)
            if labels.pop("model") == "large":
                name = one.name.removeprefix("spillway_engine_").removesuffix("_total")
                found[name, next(iter(labels.values()), "")] = one.value
    return found


def _bodies(chat: Any) -> list[tuple[str, Any]]:
    """Requests of every kind, each with a receipt."""
    bodies = []
    for number in range(24):
        mode = ("off", "auto", "fixed")[number % 3]
        fields: dict[str, Any] = {
            "temperature": (0, 0.7, 1.2)[number % 3 - 1],
            "seed": number,
            "n": 1 + number % 2,
            "max_tokens": 5 + 3 * (number % 8),
            "stop": ["e"] if number % 5 == 0 else None,
            "frequency_penalty": 0.5 if number % 4 == 0 else None,
            "spillway": {"receipt": True, "speculation": {"mode": mode}},
        }
        text = TEXTS[number % 4]
        if number % 3 == 1:
            fields["prediction"] = {"type": "content", "content": text}
        if number % 6 == 5:
            asked = {"model": "large", "prompt": [text, "fox"], "echo": True, "logprobs": 1}
            bodies.append(("/v1/completions", {**asked, **fields}))
        else:
            bodies.append(("/v1/chat/completions", chat(text, **fields)))
    return bodies


async def test_after_mixed_traffic_everything_adds_up(client: Any, chat: Any) -> None:
    before = await _samples(client)
    answers = await asyncio.gather(*(client.post(*one) for one in _bodies(chat)))
    assert {status for status, _ in answers} == {200}
    receipts = [body["spillway"] for _, body in answers]
    after = await _samples(client)
    grown = Counter({key: after[key] - before[key] for key in after})

    assert 0 < grown["accepted_tokens", ""] <= grown["drafted_tokens", ""]
    assert 0 < grown["drafts", ""] <= grown["drafted_tokens", ""]
    depths = sorted(int(at) for name, at in after if name == "accepted_by_position")
    by_position = [grown["accepted_by_position", str(at)] for at in depths]
    assert by_position == sorted(by_position, reverse=True)
    assert sum(by_position) == grown["accepted_tokens", ""]

    for metric, field in {
        "drafted_tokens": "drafted",
        "accepted_tokens": "accepted",
        "output_tokens": "output_tokens",
        "narrow_margins": "narrow_margins",
    }.items():
        assert grown[metric, ""] == sum(one[field] for one in receipts), metric
    for kind in ("proposed", "accepted"):
        for source in {at for name, at in after if name == f"source_{kind}_tokens"}:
            told = sum(one["by_source"].get(source, {}).get(kind, 0) for one in receipts)
            assert grown[f"source_{kind}_tokens", source] == told
    usage = [body["usage"] for _, body in answers]
    assert grown["output_tokens", ""] == sum(one["completion_tokens"] for one in usage)


@pytest.mark.parametrize("mode", ["off", "auto", "fixed"])
async def test_usage_counts_the_clients_own_prediction_only_whatever_is_drafted(
    client: Any, chat: Any, mode: str
) -> None:
    """With several choices, log-probs and sampling, and the same however much is drafted."""
    asked = {"max_tokens": 24, "temperature": 0.7, "seed": 11, "n": 3}
    asked |= {"logprobs": True, "top_logprobs": 2}
    _, plain = await client.post("/v1/chat/completions", chat(**asked))
    content = plain["choices"][1]["message"]["content"]
    drafts = [{"kind": "rejected_answer", "text": plain["choices"][2]["message"]["content"]}]
    steering = {"speculation": {"mode": mode}, "drafts": drafts, "receipt": True}
    prediction = {"type": "content", "content": content}
    _, found = await client.post(
        "/v1/chat/completions", chat(**asked, spillway=steering, prediction=prediction)
    )
    for one, other in zip(found["choices"], plain["choices"], strict=True):
        assert one["message"] == other["message"]
        scores, plain_scores = one["logprobs"]["content"], other["logprobs"]["content"]
        assert [entry["token"] for entry in scores] == [entry["token"] for entry in plain_scores]
        assert [entry["logprob"] for entry in scores] == pytest.approx(
            [entry["logprob"] for entry in plain_scores], abs=1e-3
        )
    details = found["usage"]["completion_tokens_details"]
    accepted, rejected = (details[f"{kind}_prediction_tokens"] for kind in ("accepted", "rejected"))
    assert accepted > 0
    assert rejected > accepted, "two of the three wrote something else"
    assert found["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
    _, undrafted = await client.post(
        "/v1/chat/completions",
        chat(**asked, prediction=prediction, spillway={"speculation": {"mode": "off"}}),
    )
    assert undrafted["usage"]["completion_tokens_details"] == details
    assert (found["spillway"]["drafted"] > 0) == (mode == "fixed") or mode == "auto"
