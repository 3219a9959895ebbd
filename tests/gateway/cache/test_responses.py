"""The response cache gives back what was said, to whom it was said, while it is good enough."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.entry import Entry, Label
from gateway.cache.recent import Recent
from gateway.cache.refusals import Refusals
from gateway.cache.responses import ResponseCache, Rules
from gateway.cascade.answer import Answer, Choice
from gateway.cascade.policy import Policy, Rung
from gateway.cascade.run import Cascade
from gateway.errors import ApiError, StoreUnavailable, TierBroken, TierUnavailable
from gateway.generation import Delta, Finished, Job, Started, TierDone, TierEvent, Usage
from gateway.store.lane import Limits
from gateway.store.memory import MemoryStore
from gateway.store.redis_store import RedisStore

SECRET = b"s" * 32
LADDER = ("brook", "river")
GREEDY = {"temperature": 0}
RULES = Rules(ttl_s=60, recent_s=0)  # every lookup asks the store


@dataclass
class Source:
    current: Policy


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class House:
    """A cascade with a cache, whose policy, clock and tiers a test may turn."""

    def __init__(self, scripted: Any, speech: Any, estimator: Any, store: Any = None) -> None:
        self.clock = Clock()
        self.store = store or MemoryStore()
        self.cache = ResponseCache(self.store, secret=SECRET, rules=RULES, clock=self.clock)
        self.policy = Source(Policy(1, (Rung("brook", 0.5, 0.5), Rung("river"))))
        self.tiers = {name: scripted(name, speech.says("I am ", name)) for name in LADDER}
        self.opinions = estimator({"brook": 0.9, "river": 0.9}, {"brook": 0.7})
        self.cascade = Cascade(
            list(self.tiers.values()), self.policy, estimator=self.opinions, cache=self.cache
        )

    async def ask(self, job: Job) -> tuple[Started, str, Finished]:
        async with aclosing(self.cascade.answer(job)) as events:
            seen = [event async for event in events]
        await self.cache.flush()
        text = "".join(event.text for event in seen if isinstance(event, Delta))
        return seen[0], text, seen[-1]  # type: ignore[return-value]

    def asked(self) -> int:
        return sum(len(tier.bodies) for tier in self.tiers.values())


@pytest.fixture
def house(scripted: Any, speech: Any, estimator: Any) -> House:
    return House(scripted, speech, estimator)


async def test_the_second_asker_gets_the_first_ones_answer_with_its_usage(
    house: House, make_job: Any
) -> None:
    first = await house.ask(make_job(body=GREEDY))
    house.clock.now += 5
    second = await house.ask(make_job(body=GREEDY, stream=True))
    assert (first[1], first[2].usage) == (second[1], second[2].usage)
    assert first[0].cache_status == "spillway; fwd=uri-miss"
    assert (second[0].cache_status, second[0].age_s) == ("spillway; hit; ttl=55", 5)
    assert (second[0].tier, second[2].receipt["tier"]) == ("brook", "brook")
    assert second[2].receipt["score"] == 0.7
    assert house.asked() == 1


@pytest.mark.parametrize("body", [{}, {"temperature": 0.7}, {"seed": None}])
async def test_a_sampled_answer_is_never_given_twice(
    house: House, make_job: Any, body: Any
) -> None:
    for _ in range(2):
        started, _, _ = await house.ask(make_job(body=body))
        assert started.cache_status == "spillway; fwd=bypass"
    assert house.asked() == 2


async def test_a_seeded_answer_is_given_again_with_every_choice(
    house: House, make_job: Any
) -> None:
    job = make_job(body={"seed": 3, "n": 2, "logprobs": True, "top_logprobs": 1})
    async with aclosing(house.cascade.answer(job)) as events:
        first = [event async for event in events if isinstance(event, Delta)]
    await house.cache.flush()
    async with aclosing(house.cascade.answer(job)) as events:
        second = [event async for event in events if isinstance(event, Delta)]
    assert first == second
    assert [delta.choice for delta in second] == [0, 1]
    assert house.asked() == 1


async def test_a_tenant_never_gets_anothers_answer(house: House, make_job: Any) -> None:
    await house.ask(make_job(body=GREEDY, tenant="a"))
    started, _, _ = await house.ask(make_job(body=GREEDY, tenant="b"))
    assert started.cache_status == "spillway; fwd=uri-miss"


async def test_a_pinned_tier_has_answers_of_its_own(house: House, make_job: Any) -> None:
    for model in ("auto", "brook", "river"):
        await house.ask(make_job(body=GREEDY, model=model))
    assert house.asked() == 3
    for model, text in (("auto", "I am brook"), ("brook", "I am brook"), ("river", "I am river")):
        assert (await house.ask(make_job(body=GREEDY, model=model)))[1] == text
    assert house.asked() == 3


async def test_a_raised_threshold_lets_weaker_answers_lapse_and_a_lowered_one_revives_them(
    house: House, make_job: Any
) -> None:
    await house.ask(make_job(body=GREEDY))
    house.policy.current = Policy(2, (Rung("brook", 0.5, 0.8), Rung("river")))
    started, text, _ = await house.ask(make_job(body=GREEDY))
    assert started.cache_status == "spillway; fwd=stale; detail=policy"
    assert (started.policy_version, text) == (2, "I am river")
    started, text, _ = await house.ask(make_job(body=GREEDY))
    assert (started.cache_status, text) == ("spillway; hit; ttl=60", "I am river")
    house.policy.current = Policy(3, (Rung("brook", 1.0, 1.0), Rung("river")))
    assert (await house.ask(make_job(body=GREEDY)))[0].tier == "river"
    assert house.asked() == 3


async def test_a_raised_start_threshold_lets_answers_of_lower_tiers_lapse(
    house: House, make_job: Any
) -> None:
    await house.ask(make_job(body=GREEDY))
    house.policy.current = Policy(2, (Rung("brook", 0.95, 0.5), Rung("river")))
    assert (await house.ask(make_job(body=GREEDY)))[1] == "I am river"


async def test_scores_of_another_router_are_not_compared(house: House, make_job: Any) -> None:
    await house.ask(make_job(body=GREEDY))
    house.opinions.version = "v2"
    started, _, _ = await house.ask(make_job(body=GREEDY))
    assert started.cache_status == "spillway; fwd=stale; detail=policy"


async def test_an_answer_given_for_want_of_a_better_one_is_not_kept(
    house: House, make_job: Any
) -> None:
    house.opinions.scores = {"brook": 0.1}
    house.tiers["river"].up = False
    assert (await house.ask(make_job(body=GREEDY)))[1] == "I am brook"
    house.tiers["river"].up = True
    assert (await house.ask(make_job(body=GREEDY)))[1] == "I am river"


async def test_other_weights_make_another_key_and_unknown_weights_none(
    house: House, make_job: Any
) -> None:
    await house.ask(make_job(body=GREEDY))
    house.tiers["river"].fingerprint = "new"
    assert (await house.ask(make_job(body=GREEDY)))[0].cache_status == "spillway; fwd=uri-miss"
    house.tiers["river"].fingerprint = None
    started, _, _ = await house.ask(make_job(body=GREEDY))
    assert started.cache_status == "spillway; fwd=bypass; detail=fingerprint"


async def test_weights_that_change_while_answering_keep_the_answer_out(
    house: House, make_job: Any
) -> None:
    plain = house.tiers["brook"].script

    async def reloads(job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
        house.tiers["brook"].fingerprint = "new"
        async for event in plain(job, body):
            yield event

    house.tiers["brook"].script = reloads
    await house.ask(make_job(body=GREEDY))
    assert house.store.used_bytes == 0


async def test_an_answer_that_broke_off_or_was_cut_is_not_kept(
    house: House, make_job: Any, speech: Any
) -> None:
    house.tiers["river"].script = speech.fails(TierBroken("cut"), "I a")
    with pytest.raises(TierBroken):
        await house.ask(make_job(body=GREEDY, model="river"))

    async def cut(job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
        yield Delta(text="I a", finish_reason="length")
        yield TierDone(usage=Usage(completion_tokens=2))

    house.tiers["river"].script = cut
    await house.ask(make_job(body=GREEDY, model="river"))
    await house.cache.flush()
    assert house.store.used_bytes == 0


async def test_a_client_that_leaves_midway_leaves_nothing_in_the_cache(
    house: House, make_job: Any
) -> None:
    events = house.cascade.answer(make_job(body=GREEDY, model="river"))
    await anext(events)
    await anext(events)
    await events.aclose()
    await house.cache.flush()
    assert house.store.used_bytes == 0


async def test_the_caller_decides_what_the_cache_may_do(house: House, make_job: Any) -> None:
    def job(*directives: str) -> Job:
        return make_job(body=GREEDY, cache_control=frozenset(directives))

    with pytest.raises(ApiError) as refused:
        await house.ask(job("only-if-cached"))
    assert refused.value.status == 504
    assert (await house.ask(job("no-store")))[0].cache_status == "spillway; fwd=bypass"
    assert house.store.used_bytes == 0
    assert (await house.ask(job("no-cache")))[0].cache_status == "spillway; fwd=request"
    house.clock.now += 10
    assert (await house.ask(job("only-if-cached")))[0].age_s == 10
    assert (await house.ask(job("max-age=9")))[0].cache_status == "spillway; fwd=stale"
    house.clock.now += 10
    assert (await house.ask(job("max-age=10")))[0].age_s == 10
    assert house.asked() == 3


async def test_fields_of_unknown_effect_bypass_the_cache(house: House, make_job: Any) -> None:
    started, _, _ = await house.ask(make_job(body=GREEDY, cacheable=False))
    assert started.cache_status == "spillway; fwd=bypass"
    assert house.store.used_bytes == 0


async def test_an_entry_older_than_its_time_is_not_given_even_if_the_store_has_it(
    house: House, make_job: Any
) -> None:
    await house.ask(make_job(body=GREEDY))
    house.clock.now += 61
    assert (await house.ask(make_job(body=GREEDY)))[0].cache_status == "spillway; fwd=stale"


async def test_an_answer_larger_than_the_cap_is_not_kept(make_job: Any, house: House) -> None:
    small = ResponseCache(house.store, secret=SECRET, rules=Rules(max_bytes=100))
    job = make_job(body=GREEDY)
    tiers = list(house.tiers.values())
    looked = await small.look(job, tiers, lambda entry: True)
    choice = Choice(text="x" * 100, finish_reason="stop")
    answer = Answer(tier="river", choices=(choice,), usage=Usage())
    entry = Entry(answer=answer, created=0.0, policy_version=1)
    small.keep(looked, job, tiers, entry, lambda old: True)
    await small.flush()
    assert house.store.used_bytes == 0


class Broken:
    """A store that fails at everything."""

    async def get(self, key: str) -> bytes | None:
        raise StoreUnavailable("gone")

    async def swap(self, key: str, **_: Any) -> bool:
        raise StoreUnavailable("gone")


async def test_a_store_that_is_gone_costs_nothing_but_hits(
    scripted: Any, speech: Any, estimator: Any, make_job: Any
) -> None:
    house = House(scripted, speech, estimator, Broken())
    for _ in range(3):
        started, text, _ = await house.ask(make_job(body=GREEDY))
        assert (started.cache_status, text) == (
            "spillway; fwd=uri-miss; detail=unreachable", "I am brook",
        )  # fmt: skip


class Lying:
    """A store that answers with whatever it likes."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.values: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        if not self.values:
            return None
        value = bytearray(self.dice.choice(list(self.values.values())))
        kind = self.dice.randrange(4)
        if kind == 0:
            value[self.dice.randrange(len(value))] ^= 1 << self.dice.randrange(8)
        elif kind == 1:
            del value[self.dice.randrange(len(value)) :]
        elif kind == 2:
            value = bytearray(self.dice.randbytes(self.dice.randrange(200)))
        return bytes(value)

    async def swap(self, key: str, *, expected: bytes | None, value: bytes, ttl_s: float) -> bool:
        self.values[key] = value
        return True


async def test_a_lying_store_never_changes_an_answer(
    scripted: Any, speech: Any, estimator: Any, make_job: Any
) -> None:
    house = House(scripted, speech, estimator, Lying(random.Random(3)))

    async def echo(job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
        yield Delta(text=body["messages"][0]["content"], finish_reason="stop")
        yield TierDone(usage=Usage())

    house.tiers["brook"].script = echo
    hits = 0
    for at in range(3000):
        said = f"question {at % 10}"
        job = make_job(body={**GREEDY, "messages": [{"role": "user", "content": said}]})
        started, text, _ = await house.ask(job)
        assert text == said
        hits += "hit" in (started.cache_status or "")
    assert hits > 0, "a true value must still be believed"


async def test_replicas_on_one_redis_share_answers_and_survive_its_death(
    scripted: Any, speech: Any, estimator: Any, make_job: Any, redis_server: Any
) -> None:
    limits = Limits(call_s=5, connect_s=5, socket_s=5, pool_wait_s=5, failures=3, first_pause_s=0.1,
                    longest_pause_s=0.2)  # fmt: skip
    stores = [RedisStore(redis_server.url, limits=limits) for _ in range(2)]
    one, other = (House(scripted, speech, estimator, store) for store in stores)
    await one.ask(make_job(body=GREEDY))
    assert "hit" in str((await other.ask(make_job(body=GREEDY)))[0].cache_status)
    for trouble in (
        redis_server.kill,
        redis_server.start,
        lambda: redis_server.command("FLUSHALL"),
    ):
        trouble()
        for house in (one, other):
            assert (await house.ask(make_job(body=GREEDY)))[1] == "I am brook"
    for _ in range(100):
        await one.ask(make_job(body=GREEDY))
        if "hit" in str((await other.ask(make_job(body=GREEDY)))[0].cache_status):
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("the cache never came back")
    for store in stores:
        await store.aclose()


async def test_a_weaker_answer_that_comes_late_never_replaces_a_better_one(
    house: House, make_job: Any
) -> None:
    """Two replicas answer one request at once: one from the small tier, one from the large."""
    job = make_job(body=GREEDY)
    tiers, always = list(house.tiers.values()), lambda entry: True
    looked = await house.cache.look(job, tiers, always)

    def entry(tier: str) -> Entry:
        choice = Choice(text=f"I am {tier}", finish_reason="stop")
        answer = Answer(tier=tier, choices=(choice,), usage=Usage())
        return Entry(answer=answer, created=house.clock.now, policy_version=1, score=0.9)

    for tier in ("brook", "river", "brook"):
        house.cache.keep(looked, job, tiers, entry(tier), always)
        await house.cache.flush()
    found = await house.cache.look(job, tiers, always)
    assert found.entry is not None
    assert found.entry.answer.tier == "river"
    house.cache.keep(looked, job, tiers, entry("brook"), lambda old: old.answer.tier == "brook")
    await house.cache.flush()
    found = await house.cache.look(job, tiers, always)
    assert found.entry is not None
    assert found.entry.answer.tier == "brook", "what no longer serves is in nobody's way"


async def test_what_every_tier_refused_is_refused_again_for_seconds_and_only_to_the_same_tenant(
    house: House, make_job: Any, speech: Any
) -> None:
    house.cache.refusals = Refusals(5.0, clock=house.clock)
    too_long = ApiError(400, "too long", param="messages", code="context_length_exceeded")
    for tier in house.tiers.values():
        tier.script = speech.fails(too_long)
    for _ in range(3):
        with pytest.raises(ApiError) as refused:
            await house.ask(make_job(body=GREEDY))
        assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")
    assert refused.value.headers["cache-status"] == "spillway; hit; detail=refusal"
    once = house.asked()  # each tier, and one of them again without what we added
    assert once == 3
    with pytest.raises(ApiError):
        await house.ask(make_job(body=GREEDY, tenant="another"))
    assert house.asked() == 2 * once
    house.clock.now += 5
    with pytest.raises(ApiError):
        await house.ask(make_job(body=GREEDY))
    assert house.asked() == 3 * once


async def test_a_tier_that_was_down_makes_a_refusal_nobody_remembers(
    house: House, make_job: Any, speech: Any
) -> None:
    house.cache.refusals = Refusals(5.0, clock=house.clock)
    house.tiers["brook"].script = speech.fails(ApiError(400, "too long"))
    house.tiers["river"].script = speech.fails(TierUnavailable("river", "down"))
    with pytest.raises(ApiError):
        await house.ask(make_job(body=GREEDY))
    house.tiers["river"].script = speech.says("I am back")
    assert (await house.ask(make_job(body=GREEDY)))[1] == "I am back"


async def test_sampled_answers_are_given_again_where_the_operator_asks_for_it(
    house: House, make_job: Any
) -> None:
    house.cache.rules = replace(RULES, sampled=True)
    for _ in range(2):
        started, _, _ = await house.ask(make_job())
    assert "hit" in str(started.cache_status)
    assert house.asked() == 1


async def test_a_cache_that_is_off_neither_reads_nor_writes(house: House, make_job: Any) -> None:
    await house.ask(make_job(body=GREEDY))
    house.cache.rules = Rules(responses=False)
    started, _, _ = await house.ask(make_job(body=GREEDY))
    assert started.cache_status == "spillway; fwd=bypass"
    assert house.asked() == 2


async def test_every_part_of_a_choice_survives_the_store() -> None:
    """Whoever adds a field to a choice finds here whether a cached answer keeps it."""
    choice = Choice(text="x", finish_reason="stop", logprobs=({"token": "x", "logprob": -1.5},))
    usage = Usage(
        prompt_tokens=1, completion_tokens=2, cached_tokens=3, accepted_prediction_tokens=4,
        rejected_prediction_tokens=5,
    )  # fmt: skip
    assert all(getattr(choice, name) != field.default for name, field in fields_of(Choice))
    answer = Answer(tier="t", choices=(choice, choice), usage=usage, fingerprint="fp")
    entry = Entry(
        answer=answer, created=1.5, policy_version=3, model="auto", score=0.5,
        probabilities={"t": 0.5}, estimator="v1",
    )  # fmt: skip
    assert Entry.decode(entry.encode()) == entry
    assert Label.read(entry.encode()) == ("auto", "t", 1.5)


def fields_of(kind: type) -> list[tuple[str, Any]]:
    return [(one.name, one) for one in fields(kind)]


async def test_ten_thousand_mutated_entries_are_ten_thousand_misses(
    house: House, make_job: Any
) -> None:
    dice = random.Random(23)
    job, tiers = make_job(body=GREEDY), list(house.tiers.values())
    await house.ask(job)
    found = await house.cache.look(job, tiers, lambda entry: True)
    assert found.key is not None
    whole = await house.store.get(found.key)
    for _ in range(10_000):
        value = bytearray(whole)
        kind = dice.randrange(4)
        if kind == 0:
            value[dice.randrange(len(value))] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del value[dice.randrange(len(value)) :]
        elif kind == 2:
            value += dice.randbytes(dice.randrange(1, 40))
        else:
            value = bytearray(dice.randbytes(dice.randrange(300)))
        await house.store.set(found.key, bytes(value), ttl_s=60)
        assert (await house.cache.look(job, tiers, lambda entry: True)).entry is None


@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_the_decoder_raise(raw: bytes) -> None:
    Entry.decode(raw)
    Entry.decode(b"\n" + raw)
    Label.read(raw)
    Label.read(raw + b"\n")


async def test_a_busy_answer_is_not_fetched_each_time_and_what_was_dropped_is_not_given(
    house: House, make_job: Any
) -> None:
    house.cache.recent = Recent(ttl_s=1.0, clock=house.clock)
    job, tiers = make_job(body=GREEDY), list(house.tiers.values())
    await house.ask(job)
    for _ in range(2):
        assert "hit" in str((await house.ask(job))[0].cache_status)
    key = house.cache.keys.of(job, tiers)
    assert key is not None
    await house.store.remove([key])
    assert "hit" in str((await house.ask(job))[0].cache_status), "for a second"
    house.cache.forget()
    assert "miss" in str((await house.ask(job))[0].cache_status)
    await house.ask(job)
    await house.store.remove([key])
    house.clock.now += 1.0
    assert "miss" in str((await house.ask(job))[0].cache_status)
