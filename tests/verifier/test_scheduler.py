"""Who is served when: order, ageing, budgets, on a clock of our own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.cache import KeyValueCache
from verifier.choice import Choice, Counts, Tally
from verifier.loading import LoadedModel
from verifier.request import GenerationRequest, SamplingParams, Speculation, StopRules
from verifier.rows import CacheShape
from verifier.scheduler import AGEING, Scheduler


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Decoded:
    """As much of an output as a scheduler looks at."""

    count = 0


def choice(number: int, *, submitted: float, predicted: int | None, longest: int = 100) -> Choice:

    request = GenerationRequest(
        request_id=str(number),
        model="m",
        prompt=(1, 2, 3),
        sampling=SamplingParams(),
        stops=StopRules(max_tokens=longest),
        predicted_tokens=predicted,
    )
    waiting: Any = Decoded()
    return Choice(
        request=request,
        arrival=number,
        root=bytes(32),
        tokens=[1, 2, 3],
        sampler=waiting,
        output=waiting,
        drafts=None,
        tally=Tally(submitted=submitted),
    )


def scheduler(clock: Clock, **options: Any) -> Scheduler:

    shape = CacheShape(1, 1, 2, torch.float32)
    cache = KeyValueCache(shape, pages=64, page_size=4)
    settled = {"max_running": 1, "step_tokens": 64, "clock": clock, **options}
    return Scheduler(cache, Counts(), **settled)


def served(one: Scheduler) -> str | None:
    """Run whoever's turn it is to its end."""
    one.chunks()
    if not one.running:
        return None
    [running] = one.running
    one.finish(running)
    return running.request.request_id


def test_the_first_to_come_is_the_first_served() -> None:
    clock = Clock()
    line = scheduler(clock)
    for number, predicted in enumerate([90, 10, 50]):
        line.enqueue(choice(number, submitted=clock.now, predicted=predicted))
    assert [served(line) for _ in range(4)] == ["0", "1", "2", None]


def test_the_shortest_goes_first_and_without_a_prediction_its_limit_counts() -> None:
    clock = Clock()
    line = scheduler(clock, order="shortest")
    line.enqueue(choice(0, submitted=0.0, predicted=90))
    line.enqueue(choice(1, submitted=0.0, predicted=None, longest=70))
    line.enqueue(choice(2, submitted=0.0, predicted=10))
    line.enqueue(choice(3, submitted=0.0, predicted=None, longest=5))
    line.enqueue(choice(4, submitted=0.0, predicted=0))
    assert [served(line) for _ in range(5)] == ["4", "3", "2", "1", "0"]


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 2000),
    others=st.lists(st.tuples(st.floats(0.01, 2.0), st.integers(1, 50)), min_size=1, max_size=120),
    service_s=st.floats(0.01, 1.0),
)
def test_nobody_starves_behind_shorter_newcomers(
    length: int, others: list[tuple[float, int]], service_s: float
) -> None:
    """Whoever is served before a long request came at most its length over ``AGEING`` after it."""
    clock = Clock()
    line = scheduler(clock, order="shortest")
    line.enqueue(choice(0, submitted=0.0, predicted=length))
    coming = list(others)
    next_at, number, arrived = 0.0, 1, {"0": 0.0}
    while True:
        while coming and next_at <= clock.now:
            pause, predicted = coming.pop()
            line.enqueue(choice(number, submitted=next_at, predicted=predicted))
            arrived[str(number)] = next_at
            next_at, number = next_at + pause, number + 1
        name = served(line)
        clock.now += service_s
        if name == "0":
            break
        if name is not None:
            assert arrived[name] < length / AGEING
    assert line.running == []


def test_a_prompt_is_cut_to_the_budget_or_not_at_all(llama: LoadedModel, drive: Any) -> None:
    prompt = tuple(range(10, 110))
    steps = {}
    for step_tokens in (16, 50, None):
        engine = drive.engine(llama, step_tokens=step_tokens)
        [outputs] = drive.run(engine, drive.request(prompt, tokens=1))
        steps[step_tokens] = engine.stats().models["llama"].steps
        assert len(drive.tokens(outputs)) == 1
    assert steps == {16: 7, 50: 2, None: 1}


@pytest.mark.parametrize("step_tokens", [1, 8])
def test_decoding_goes_on_beside_a_long_prompt_and_the_prompt_too(
    llama: LoadedModel, drive: Any, step_tokens: int
) -> None:
    """Every step gives each decoding request a token, and the prompt at least one."""
    engine = drive.engine(llama, step_tokens=step_tokens)
    off = Speculation(mode="off")
    for number in range(8):
        engine.submit(drive.request((5 + number,), name=str(number), tokens=100, speculation=off))
    while engine.stats().models["llama"].output_tokens < 8:
        engine.step()
    while len(engine.step()) < 8:
        pass
    engine.submit(drive.request(tuple(range(10, 70)), name="long", tokens=1))
    outputs, taken = engine.step(), 1
    while not any(output.request_id == "long" for output in outputs):
        assert {output.request_id for output in outputs} >= {str(number) for number in range(8)}
        outputs, taken = engine.step(), taken + 1
    assert taken == 60 // max(step_tokens - 8, 1) + (step_tokens > 9)
    engine.close()


def test_a_prefix_that_is_being_computed_is_waited_for_not_computed_again(
    llama: LoadedModel, drive: Any
) -> None:
    prompt = tuple(range(10, 62))
    alone = drive.tokens(drive.run(drive.engine(llama), drive.request(prompt))[0])
    engine = drive.engine(llama, page_size=8, step_tokens=20)
    for number in range(5):
        engine.submit(drive.request(prompt, name="n", choice=number))
    engine.submit(drive.request(prompt[::-1], name="passes", tokens=2))
    found = drive.drain(engine)
    written = [drive.tokens(found["n", number]) for number in range(5)]
    assert written == [alone] * 5
    cached = [found["n", number][-1].receipt.cached_prompt_tokens for number in range(5)]
    assert cached[0] == 0
    assert min(cached[1:]) >= 40, "a last page alone is not waited for"
    assert found["passes", 0][-1].receipt.cached_prompt_tokens == 0
    assert engine.stats().models["llama"].pages_used == 0


def test_who_waits_for_a_prefix_goes_on_when_its_leader_is_gone(
    llama: LoadedModel, drive: Any
) -> None:
    prompt = tuple(range(10, 62))
    engine = drive.engine(llama, page_size=8, step_tokens=4)
    engine.submit(drive.request(prompt, name="leader"))
    engine.submit(drive.request(prompt, name="follower", tokens=3))
    engine.step()
    assert engine.stats().models["llama"].running == 1
    engine.cancel("leader")
    found = drive.drain(engine)
    assert len(drive.tokens(found["follower", 0])) == 3


def test_the_order_changes_when_not_what_is_written(llama: LoadedModel, drive: Any) -> None:
    requests = [
        drive.request(tuple(range(10, 20 + size)), name=str(size), tokens=size)
        for size in (40, 5, 20, 10)
    ]
    written, ended = {}, {}
    for order in ("first_come", "shortest"):
        engine = drive.engine(llama, order=order, max_running=1)
        for request in requests:
            engine.submit(request)
        ended[order] = []
        found: dict[str, list[int]] = {}
        while engine.has_work():
            for output in engine.step():
                found.setdefault(output.request_id, []).extend(output.tokens)
                ended[order] += [output.request_id] if output.receipt else []
        written[order] = found
    assert written["first_come"] == written["shortest"]
    assert ended == {
        "first_come": ["40", "5", "20", "10"],
        "shortest": ["5", "10", "20", "40"],
    }
