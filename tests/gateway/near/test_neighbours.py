"""A neighbour helps to draft, never answers, and never makes anybody wait long."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.cache.responses import ResponseCache
from gateway.cascade.policy import Policy, Rung
from gateway.cascade.run import Cascade
from gateway.generation import AnswerEvent, Delta, Finished, Job
from gateway.near.embedder import ProcessEmbedder
from gateway.near.index import Index
from gateway.near.neighbours import NearRules, Neighbours, asked_text
from gateway.near.sentences import Sentences, Vector
from gateway.store.memory import MemoryStore

SECRET = b"s" * 32


class Letters:
    """Texts with the same letters are alike; it may be told to be slow."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0

    async def embed(self, text: str) -> Vector | None:
        self.asked += 1
        await self.gate.wait()
        counts = np.zeros(128, dtype=np.float32)
        for letter in text.lower():
            counts[ord(letter) % 128] += 1
        return np.asarray(counts / np.linalg.norm(counts), dtype=np.float32)


class Source:
    current = Policy(1, (Rung("brook", 0.5, 0.5), Rung("river")))


class House:
    """A cascade with neighbours and a response cache over scripted tiers."""

    def __init__(self, scripted: Any, speech: Any, **rules: Any) -> None:
        self.letters = Letters()
        self.index = Index(max_entries=100, max_bytes=10**6, ttl_s=60)
        limits = NearRules(**{"budget_s": 5.0, "least_similarity": 0.8, **rules})
        self.neighbours = Neighbours(self.letters, self.index, limits)
        self.cache = ResponseCache(MemoryStore(), secret=SECRET)
        self.brook = scripted("brook", speech.says("I am brook"))
        self.river = scripted("river", speech.says("I am ", "river"))
        self.cascade = Cascade(
            [self.brook, self.river], Source(), cache=self.cache, neighbours=self.neighbours
        )

    async def ask(self, job: Job) -> list[AnswerEvent]:
        async with aclosing(self.cascade.answer(job)) as events:
            seen = [event async for event in events]
        await asyncio.sleep(0.01)  # what was learnt is learnt a moment later
        await self.cache.flush()
        return seen

    def drafts(self, tier: Any) -> list[dict[str, str]]:
        return tier.bodies[-1].get("spillway", {}).get("drafts", [])


@pytest.fixture
def house(scripted: Any, speech: Any) -> House:
    return House(scripted, speech)


def job(make_job: Any, text: str, **parts: Any) -> Job:
    body = {"messages": [{"role": "user", "content": text}], **parts.pop("body", {})}
    return make_job(**{"model": "river", "body": body, **parts})


def text_of(events: list[AnswerEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def test_an_answer_to_a_similar_request_is_a_draft_and_never_the_answer(
    house: House, make_job: Any, speech: Any
) -> None:
    await house.ask(job(make_job, "turn the light on", body={"temperature": 0}))
    house.river.script = speech.says("another answer")
    events = await house.ask(job(make_job, "turn light the on", body={"temperature": 0}))
    assert text_of(events) == "another answer"
    assert house.drafts(house.river) == [{"kind": "near_hit", "text": "I am river"}]
    assert "prediction" not in house.river.bodies[-1]
    assert isinstance(events[-1], Finished)
    attempt = events[-1].receipt["tiers"][-1]
    assert (attempt["handed_up"], attempt["salvaged_tokens"]) == (["near_hits"], 0)


async def test_a_server_that_takes_predictions_only_gets_the_nearest_as_one(
    house: House, make_job: Any
) -> None:
    house.river.capabilities = frozenset({"prediction"})
    await house.ask(job(make_job, "abc"))
    await house.ask(job(make_job, "acb"))
    assert house.river.bodies[-1]["prediction"] == {"type": "content", "content": "I am river"}
    clients = {"type": "content", "content": "mine"}
    await house.ask(job(make_job, "bca", body={"prediction": clients}))
    assert house.river.bodies[-1]["prediction"] == clients
    await house.ask(job(make_job, "cab", body={"n": 2}))
    assert "prediction" not in house.river.bodies[-1]


@pytest.mark.parametrize("other", [{"tenant": "another"}, {"text": "completely different"}])
async def test_neither_other_tenants_nor_unlike_requests_are_neighbours(
    house: House, make_job: Any, other: dict[str, str]
) -> None:
    await house.ask(job(make_job, "abc"))
    await house.ask(job(make_job, other.pop("text", "abc"), **other))
    assert house.drafts(house.river) == []


async def test_what_may_not_be_stored_is_neither_learnt_nor_looked_for(
    house: House, make_job: Any
) -> None:
    quiet = frozenset({"no-store"})
    await house.ask(job(make_job, "abc", cache_control=quiet))
    assert house.letters.asked == 0
    await house.ask(job(make_job, "abc"))
    assert house.drafts(house.river) == []


async def test_a_slow_embedder_delays_nobody_beyond_the_budget_and_helps_the_next_tier(
    scripted: Any, speech: Any, make_job: Any, estimator: Any
) -> None:
    house = House(scripted, speech, budget_s=0.02)
    await house.ask(job(make_job, "abc"))
    house.letters.gate.clear()
    began = asyncio.get_running_loop().time()
    assert text_of(await house.ask(job(make_job, "acb"))) == "I am river"
    assert house.drafts(house.river) == []
    assert asyncio.get_running_loop().time() - began < 3
    opinions = estimator({"brook": 0.9, "river": 0.9}, {"brook": 0.1})
    house.cascade = Cascade(
        [house.brook, house.river], Source(), estimator=opinions, neighbours=house.neighbours
    )
    plain = house.brook.script

    async def lets_go(job: Job, body: Any) -> AsyncIterator[Any]:
        house.letters.gate.set()
        await asyncio.sleep(0.01)
        async for event in plain(job, body):
            yield event

    house.brook.script = lets_go
    await house.ask(job(make_job, "bca", model="auto"))
    assert "near_hit" not in str(house.brook.bodies[-1])
    assert {"kind": "near_hit", "text": "I am river"} in house.drafts(house.river)


async def test_a_tenant_without_neighbours_never_waits(house: House, make_job: Any) -> None:
    house.letters.gate.clear()
    async with asyncio.timeout(3):  # the budget is 5 s
        await house.ask(job(make_job, "abc"))
    house.letters.gate.set()


async def test_what_an_operator_drops_drafts_no_more(house: House, make_job: Any) -> None:
    for tenant in ("a", "b"):
        await house.ask(job(make_job, "abc", tenant=tenant))
    house.cascade.forget("a")
    assert (house.index.holds("a"), house.index.holds("b")) == (False, True)
    house.cascade.forget(None)
    assert not house.index.holds("b")


async def test_an_answer_that_broke_off_is_not_learnt(
    house: House, make_job: Any, speech: Any
) -> None:
    house.river.script = speech.says("")
    await house.ask(job(make_job, "abc"))
    assert not house.index.holds("t")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"messages": [{"content": "first"}, {"content": "last"}]}, "last"),
        ({"messages": [{"content": [{"type": "text", "text": "a"}, {"text": "b"}]}]}, "a b"),
        ({"prompt": "continue"}, "continue"),
        ({"prompt": [1, 2]}, None),
        ({"messages": [{"content": "  "}]}, None),
    ],
)
def test_a_request_is_about_its_last_words(body: Any, text: str | None) -> None:
    assert asked_text(body) == text


async def test_the_embedders_process_gives_the_models_vectors_and_is_replaced_when_it_dies(
    tiny_bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "gateway.near")
    embedder = ProcessEmbedder(tiny_bert)
    expected = Sentences(tiny_bert).embed("hello")
    np.testing.assert_allclose(await embedder.embed("hello"), expected, atol=1e-6)  # type: ignore[arg-type]
    many = await asyncio.gather(*(embedder.embed("hello") for _ in range(80)))
    assert sum(one is not None for one in many) >= 64, "a bounded number may wait"
    for child in children_of(os.getpid()):
        os.kill(child, signal.SIGKILL)
    answers = [await embedder.embed("hello") for _ in range(2)]
    assert any(one is not None for one in answers), "it was started anew"
    assert any("embedder ended" in record.message for record in caplog.records)
    await embedder.aclose()
    assert not children_of(os.getpid())


def children_of(parent: int) -> list[int]:
    """Processes of the embedder that belong to us."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            mine = f"PPid:\t{parent}\n" in (folder / "status").read_text()
        except OSError:
            continue
        if mine and b"gateway.near" in words:
            found.append(int(folder.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_an_embedder_that_cannot_start_leaves_requests_alone(
    tmp_path: Path, make_job: Any, scripted: Any, speech: Any
) -> None:
    house = House(scripted, speech)
    embedder = ProcessEmbedder(tmp_path)
    house.cascade = Cascade(
        [house.brook, house.river], Source(), neighbours=Neighbours(embedder, house.index)
    )
    assert text_of(await house.ask(job(make_job, "abc"))) == "I am river"
    await embedder.aclose()
