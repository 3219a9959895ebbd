"""The cascade in front of a real engine: an escalation verifies what was written already."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.cache.responses import ResponseCache
from gateway.cascade.policy import Policy
from gateway.cascade.run import Cascade
from gateway.config import ALL_CAPABILITIES, TierConfig
from gateway.generation import Delta, Started
from gateway.store.memory import MemoryStore
from gateway.tiers.client import TierClient, address_of

LADDER = ("first", "second")
ASKED = {"temperature": 0, "max_tokens": 24}


@pytest.fixture
def letters(tiny_ladder: Path) -> dict[str, Any]:
    """Only capital letters: a random model's bytes are hardly ever text that tokenizes back."""
    tokenizer = json.loads((tiny_ladder / "large" / "tokenizer.json").read_text())
    ids = (tokenizer["model"]["vocab"][chr(code)] for code in range(ord("A"), ord("Z") + 1))
    return {**ASKED, "logit_bias": {str(token): 100 for token in ids}}


@pytest.fixture
async def tiers(shared_engine: Any) -> AsyncIterator[list[TierClient]]:
    """The same model twice, as if a judge had rejected an answer that was right."""
    url = f"{shared_engine.base}/v1"
    made = [
        TierClient(
            TierConfig(
                name=name, url=url, model="large", revision="1", capabilities=ALL_CAPABILITIES
            ),
            address_of(url),
        )
        for name in LADDER
    ]
    yield made
    for tier in made:
        await tier.close()


@pytest.fixture
def cascade(tiers: list[TierClient], estimator: Any) -> Cascade:
    class Source:
        current = Policy.initial(LADDER)

    rejecting = estimator(dict.fromkeys(LADDER, 0.9), {"first": 0.1})
    cache = ResponseCache(MemoryStore(), secret=b"s" * 32)
    return Cascade(tiers, Source(), estimator=rejecting, cache=cache)


async def test_a_right_answer_that_was_rejected_is_verified_and_not_written_again(
    cascade: Cascade, make_job: Any, asking: Any, letters: Any
) -> None:
    alone = await asking(cascade, make_job(model="second", body=letters))
    escalated = await asking(cascade, make_job(body=letters))
    assert escalated.text == alone.text
    assert escalated.started.tier == "second"
    first, second = escalated.finished.receipt["tiers"]
    assert (first["outcome"], second["outcome"]) == ("rejected", "answered")
    assert second["handed_up"] == ["prediction"]
    assert second["salvaged_tokens"] >= 20
    assert second["steps"] < second["completion_tokens"] == 24
    assert escalated.finished.usage.accepted_prediction_tokens == 0
    assert escalated.finished.usage.completion_tokens == 24


async def test_beside_a_clients_prediction_the_rejected_answer_goes_as_a_draft(
    cascade: Cascade, make_job: Any, asking: Any, letters: Any
) -> None:
    useless = {"type": "content", "content": "zzzzzzzzzz"}
    alone = await asking(cascade, make_job(model="second", body=letters))
    got = await asking(cascade, make_job(body={**letters, "prediction": useless}))
    assert got.text == alone.text
    second = got.finished.receipt["tiers"][1]
    assert second["handed_up"] == ["drafts"]
    assert second["by_source"]["rejected_answer"]["accepted"] >= 1
    assert second["salvaged_tokens"] == second["by_source"]["rejected_answer"]["accepted"]


async def test_sampled_choices_with_a_seed_escalate_and_come_from_the_cache_whole(
    cascade: Cascade, make_job: Any, asking: Any
) -> None:
    body = {"seed": 7, "temperature": 1, "n": 2, "max_tokens": 12, "logprobs": True}
    alone = await asking(cascade, make_job(model="second", body=body))
    got = await asking(cascade, make_job(body=body))
    for choice in (0, 1):
        texts = ["".join(d.text for d in one.deltas if d.choice == choice) for one in (alone, got)]
        assert texts[0] == texts[1]
    entries = [entry for delta in got.deltas for entry in delta.logprobs or ()]
    assert len(entries) == got.finished.usage.completion_tokens
    assert all(not entry["top_logprobs"] for entry in entries)


async def test_text_completions_are_judged_and_escalated_too(
    cascade: Cascade, make_job: Any, asking: Any
) -> None:
    body = {"prompt": "the quick", **ASKED}
    pinned = make_job(endpoint="completions", model="second")
    job = make_job(endpoint="completions")
    alone = await asking(cascade, replace(pinned, body=body))
    got = await asking(cascade, replace(job, body=body))
    assert (got.text, got.started.tier) == (alone.text, "second")
    assert all(delta.logprobs is None for delta in got.deltas)


async def test_leaving_early_frees_the_engine(cascade: Cascade, make_job: Any, asking: Any) -> None:
    body = {"temperature": 0, "max_tokens": 200}
    for model in ("auto", "second"):
        async with aclosing(cascade.answer(make_job(model=model, body=body))) as events:
            assert isinstance(await anext(events), Started)
            assert isinstance(await anext(events), Delta)
    got = await asyncio.wait_for(asking(cascade, make_job(model="second", body=ASKED)), 30)
    assert got.finished.usage.completion_tokens == 24
