"""Equal requests at one time are generated once, and nobody's leaving hurts anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from gateway.cache.flights import Flights
from gateway.cache.relayed import Rhythm
from gateway.cache.responses import ResponseCache, Rules
from gateway.cascade.policy import Policy, Rung
from gateway.cascade.run import Cascade
from gateway.errors import ApiError, StoreUnavailable, TierBroken, TierUnavailable
from gateway.generation import (
    AnswerEvent,
    Delta,
    Finished,
    Job,
    Started,
    TierDone,
    TierEvent,
    Usage,
)
from gateway.store.lane import Limits
from gateway.store.memory import MemoryStore
from gateway.store.redis_store import RedisStore
from gateway.store.relay import Relay

SECRET = b"s" * 32
GREEDY = {"temperature": 0}
WORDS = [f"word{at} " for at in range(12)]
TEXT = "".join(WORDS)
PATIENT = Limits(call_s=10, connect_s=10, socket_s=10, pool_wait_s=10)
QUICK = Rhythm(alone_s=0.01, followed_s=0.005, heartbeat_s=0.05, dead_s=0.6)


class Speaker:
    """A tier that says its words one after another, as often as it is asked."""

    def __init__(self, pause_s: float = 0.002) -> None:
        self.pause_s = pause_s
        self.began = 0
        self.ended = 0
        self.breaks: dict[int, int] = {}  # which generation breaks off, after how many words
        self.error: Exception = TierBroken("cut")
        self.words = {0: WORDS}  # what generation 1, 2, … says; 0: every other
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, job: Job, body: Mapping[str, Any]) -> AsyncIterator[TierEvent]:
        self.began += 1
        number = self.began
        words = self.words.get(number, self.words[0])
        for at, word in enumerate(words):
            if self.breaks.get(number, -1) == at:
                raise self.error
            await asyncio.sleep(self.pause_s)
            await self.gate.wait()
            yield Delta(text=word, finish_reason="stop" if at == len(words) - 1 else None)
        self.ended += 1
        yield TierDone(usage=Usage(prompt_tokens=3, completion_tokens=len(words)))


class Source:
    def __init__(self) -> None:
        self.current = Policy(1, (Rung("brook", 0.5, 0.5), Rung("river")))


class Replica:
    """A cascade of its own over tiers that all replicas share."""

    def __init__(self, tiers: list[Any], redis_url: str | None = None, **parts: Any) -> None:
        self.store: Any = MemoryStore()
        if redis_url is not None:
            self.store = RedisStore(redis_url, limits=PATIENT)
        self.relay = None if redis_url is None else Relay(redis_url, PATIENT)
        self.cache = ResponseCache(self.store, secret=SECRET)
        self.flights = Flights(secret=SECRET, relay=self.relay, rhythm=QUICK)
        self.policy = Source()
        self.cascade = Cascade(tiers, self.policy, cache=self.cache, flights=self.flights, **parts)

    async def ask(self, job: Job) -> list[AnswerEvent]:
        async with aclosing(self.cascade.answer(job)) as events:
            return [event async for event in events]

    async def aclose(self) -> None:
        await self.flights.aclose()
        await self.cache.flush()
        if self.relay is not None:
            await self.relay.aclose()
        await self.store.aclose()


Start = Callable[..., Replica]


@pytest.fixture
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture
async def start(scripted: Any, speech: Any, speaker: Speaker) -> AsyncIterator[Start]:
    """``start()`` a replica whose large tier is ``speaker``."""
    started: list[Replica] = []

    def make(redis_url: str | None = None, **parts: Any) -> Replica:
        tiers = [scripted("brook", speech.says("I am brook")), scripted("river", speaker)]
        started.append(Replica(tiers, redis_url, **parts))
        return started[-1]

    yield make
    for one in started:
        await one.aclose()


def text_of(events: list[AnswerEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def status_of(events: list[AnswerEvent]) -> str:
    assert isinstance(events[0], Started)
    return str(events[0].cache_status)


def check_whole(answers: list[list[AnswerEvent]]) -> None:
    for events in answers:
        assert text_of(events) == TEXT
        assert isinstance(events[-1], Finished)
        assert [type(event) for event in events].count(Started) == 1


@pytest.fixture
def river(make_job: Any) -> Callable[..., Job]:
    """A deterministic request pinned to the tier that speaks."""
    return lambda **parts: make_job(**{"model": "river", "body": GREEDY, **parts})


async def test_equal_requests_at_one_time_are_generated_once(
    start: Start, speaker: Speaker, river: Any
) -> None:
    replica = start()
    answers = await asyncio.gather(*(replica.ask(river(stream=at % 2 == 0)) for at in range(64)))
    check_whole(answers)
    assert speaker.began == 1
    assert [status_of(one) for one in answers].count("spillway; fwd=uri-miss; collapsed") == 63
    receipts = [one[-1].receipt for one in answers if isinstance(one[-1], Finished)]
    assert sum(bool(receipt.get("collapsed")) for receipt in receipts) == 63
    assert status_of(await replica.ask(river())).startswith("spillway; hit")


async def test_who_joins_late_reads_from_the_beginning_as_it_streams(
    start: Start, speaker: Speaker, river: Any
) -> None:
    replica = start()
    first = replica.cascade.answer(river())
    seen = [await anext(first) for _ in range(4)]
    speaker.gate.clear()
    late = replica.cascade.answer(river())
    assert [await asyncio.wait_for(anext(late), 5) for _ in range(3)][1:] == seen[1:3]
    speaker.gate.set()
    check_whole([[*seen, *[event async for event in first]]])
    assert speaker.began == 1
    await late.aclose()


OTHERS = [
    {"tenant": "another"}, {"body": {}}, {"body": {"temperature": 0.7}},
    {"body": {**GREEDY, "max_tokens": 5}}, {"cache_control": frozenset({"no-cache"})},
    {"cache_control": frozenset({"no-store"})}, {"cache_control": frozenset({"max-age=0"})},
    {"cacheable": False},
]  # fmt: skip


@pytest.mark.parametrize("other", OTHERS, ids=str)
async def test_what_is_not_the_same_deterministic_request_of_one_tenant_is_not_shared(
    start: Start, speaker: Speaker, river: Any, other: Any
) -> None:
    replica = start()
    check_whole(await asyncio.gather(*(replica.ask(river(**one)) for one in ({}, other))))
    assert speaker.began == 2


async def test_another_policy_makes_another_flight(
    start: Start, speaker: Speaker, river: Any
) -> None:
    replica = start()
    first = asyncio.create_task(replica.ask(river()))
    await asyncio.sleep(0.005)
    replica.policy.current = Policy(2, (Rung("brook", 0.5, 0.6), Rung("river")))
    check_whole([await replica.ask(river()), await first])
    assert speaker.began == 2


async def test_the_first_ones_leaving_does_not_hurt_the_others(
    start: Start, speaker: Speaker, river: Any
) -> None:
    replica = start()
    first = replica.cascade.answer(river())
    await anext(first)
    others = [asyncio.create_task(replica.ask(river())) for _ in range(3)]
    await asyncio.sleep(0.005)
    await first.aclose()
    check_whole(list(await asyncio.gather(*others)))
    assert speaker.began == 1


async def test_when_everybody_has_left_the_generation_ends(
    start: Start, speaker: Speaker, river: Any
) -> None:
    replica = start()
    speaker.gate.clear()
    tasks = [asyncio.create_task(replica.ask(river())) for _ in range(3)]
    await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert [tier.open for tier in replica.cascade.tiers] == [0, 0]
    speaker.gate.set()
    check_whole([await replica.ask(river())])
    assert (speaker.began, speaker.ended) == (2, 1)


async def test_a_slow_reader_holds_up_nobody_and_loses_nothing(
    start: Start, speaker: Speaker, river: Any
) -> None:
    speaker.words[0] = WORDS * 60
    speaker.pause_s = 0
    replica = start()
    slow = replica.cascade.answer(river())
    seen = [await anext(slow)]
    others = await asyncio.gather(*(replica.ask(river()) for _ in range(3)))
    assert {text_of(one) for one in others} == {TEXT * 60}
    seen += [event async for event in slow]
    assert text_of(seen) == TEXT * 60
    assert speaker.began == 1


async def test_a_lone_reader_that_does_not_read_holds_the_generation_back(
    start: Start, speaker: Speaker, river: Any
) -> None:
    speaker.words[0] = WORDS * 60
    speaker.pause_s = 0
    replica = start()
    slow = replica.cascade.answer(river())
    await anext(slow)
    await asyncio.sleep(0.1)
    assert speaker.ended == 0
    assert text_of([event async for event in slow]) == TEXT * 60


async def test_an_answer_that_breaks_off_is_continued_for_those_who_share_it(
    start: Start, speaker: Speaker, river: Any
) -> None:
    speaker.breaks = {1: 5}
    replica = start()
    check_whole(list(await asyncio.gather(*(replica.ask(river()) for _ in range(4)))))
    assert speaker.began == 2


async def test_a_single_reader_is_told_at_once_that_its_answer_broke_off(
    start: Start, speaker: Speaker, river: Any
) -> None:
    speaker.breaks = {1: 5}
    with pytest.raises(TierBroken):
        await start().ask(river())
    assert speaker.began == 1


async def test_an_answer_that_continues_otherwise_is_an_honest_error(
    start: Start, speaker: Speaker, river: Any
) -> None:
    speaker.breaks = {1: 5}
    speaker.words[2] = ["something ", "else "]
    replica = start()
    answers = await asyncio.gather(
        *(replica.ask(river()) for _ in range(4)), return_exceptions=True
    )
    assert all(isinstance(one, TierBroken) for one in answers)
    await replica.cache.flush()
    assert replica.store.used_bytes == 0


async def test_a_failure_of_the_moment_is_not_shared(
    start: Start, speaker: Speaker, river: Any
) -> None:
    """Only the one whose request failed hears of it; the others ask for themselves."""
    speaker.breaks, speaker.error = {1: 0}, TierUnavailable("river", "restarting")
    replica = start()
    answers = await asyncio.gather(
        *(replica.ask(river()) for _ in range(4)), return_exceptions=True
    )
    assert [isinstance(one, ApiError) for one in answers] == [True, False, False, False]
    check_whole([one for one in answers if not isinstance(one, BaseException)])


async def test_an_answer_given_for_want_of_a_better_one_is_not_shared(
    start: Start, speaker: Speaker, make_job: Any, estimator: Any
) -> None:
    opinions = estimator({"brook": 0.9, "river": 0.9}, {"brook": 0.1})
    replica = start(estimator=opinions)
    speaker.breaks, speaker.error = {1: 0}, TierUnavailable("river", "restarting")
    job = make_job(body=GREEDY)
    answers = await asyncio.gather(*(replica.ask(job) for _ in range(3)))
    assert [text_of(one) for one in answers] == ["I am brook", TEXT, TEXT]


async def test_every_readers_deadline_is_its_own(
    start: Start, speaker: Speaker, river: Any
) -> None:
    replica = start()
    speaker.gate.clear()
    patient = asyncio.create_task(replica.ask(river()))
    await asyncio.sleep(0.01)
    with pytest.raises((ApiError, TierBroken)):
        await replica.ask(river(deadline_s=0.05))
    speaker.gate.set()
    check_whole([await patient])


# Across replicas, over a real Redis.


@pytest.fixture
async def pair(start: Start, redis_server: Any) -> tuple[Replica, Replica]:
    return start(redis_server.url), start(redis_server.url)


async def test_equal_requests_over_two_replicas_are_generated_once(
    pair: tuple[Replica, Replica], speaker: Speaker, river: Any
) -> None:
    speaker.pause_s = 0.02
    asked = [pair[at % 2].ask(river()) for at in range(64)]
    answers = await asyncio.gather(*asked)
    check_whole(list(answers))
    assert speaker.began == 1
    collapsed = [status_of(one).endswith("collapsed") for one in answers]
    assert collapsed.count(True) == 63


async def test_another_replicas_followers_stream_and_outlive_the_first_client(
    pair: tuple[Replica, Replica], speaker: Speaker, river: Any
) -> None:
    one, other = pair
    leader = one.cascade.answer(river())
    await anext(leader)
    follower = other.cascade.answer(river())
    seen = [await asyncio.wait_for(anext(follower), 5) for _ in range(2)]
    speaker.gate.clear()
    (flight,) = one.flights._flying.values()
    async with asyncio.timeout(30):
        while not flight.wanted_elsewhere():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await leader.aclose()
    speaker.gate.set()
    check_whole([[*seen, *[event async for event in follower]]])
    assert speaker.began == 1, "it goes on for those elsewhere"


async def test_a_leader_that_falls_silent_is_taken_over_and_its_late_words_go_nowhere(
    pair: tuple[Replica, Replica], speaker: Speaker, river: Any
) -> None:
    one, other = pair
    speaker.pause_s = 0.02
    leader = one.cascade.answer(river())
    await anext(leader)
    follower = other.cascade.answer(river())
    seen = [await asyncio.wait_for(anext(follower), 5) for _ in range(3)]
    lane = one.relay._lane  # type: ignore[union-attr]

    async def frozen(command: Any) -> Any:
        raise StoreUnavailable("frozen")

    lane.call = frozen  # type: ignore[method-assign]
    seen += [event async for event in follower]
    del lane.call
    check_whole([seen, [Started(tier="river", policy_version=1), *[e async for e in leader]]])
    assert speaker.began == 2
    check_whole([await other.ask(river())])


async def test_a_redis_that_dies_in_the_middle_breaks_nobody(
    pair: tuple[Replica, Replica], speaker: Speaker, river: Any, redis_server: Any
) -> None:
    speaker.pause_s = 0.02
    tasks = [asyncio.create_task(pair[at % 2].ask(river())) for at in range(8)]
    await asyncio.sleep(0.1)
    redis_server.kill()
    check_whole(list(await asyncio.gather(*tasks)))
    assert speaker.began <= 2
    check_whole([await pair[0].ask(river())])


@pytest.mark.parametrize("garbage", ["overwritten", "another type", "removed"])
async def test_a_stream_that_holds_garbage_is_left_and_the_answer_continued(
    pair: tuple[Replica, Replica], speaker: Speaker, river: Any, redis_server: Any, garbage: str
) -> None:
    one, other = pair
    speaker.pause_s = 0.02
    leader = asyncio.create_task(one.ask(river()))
    follower = other.cascade.answer(river())
    await asyncio.sleep(0.06)
    seen = [await asyncio.wait_for(anext(follower), 5) for _ in range(2)]
    keys = [key async for key in other.store._read.client.scan_iter(match="spillway:sf:1:*:1:*")]
    stream = next(key.decode() for key in keys if not key.endswith(b":want"))
    redis_server.command("DEL", stream)
    if garbage == "overwritten":
        redis_server.command("XADD", stream, "1000-0", "p", "garbage")
    elif garbage == "another type":
        redis_server.command("SET", stream, "garbage")
    seen += [event async for event in follower]
    check_whole([seen, await leader])
    assert speaker.began == 2 or garbage == "removed", "a gap may fall where all was read"


async def test_unseeded_sampling_is_never_shared_even_where_its_answers_are_kept(
    start: Start, speaker: Speaker, river: Any
) -> None:
    replica = start()
    replica.cache.rules = Rules(sampled=True)
    check_whole(list(await asyncio.gather(*(replica.ask(river(body={})) for _ in range(3)))))
    assert speaker.began == 3
