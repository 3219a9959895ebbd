"""Seeded disorder: arrivals, cancellations, preemptions and stops over a tiny pool of pages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from drafting.source import Reference
from verifier.certificate_runs import Written, compare, written
from verifier.certificate_sources import SHAPES, TRUTH, adversaries
from verifier.draft_model import DraftNetwork
from verifier.engine import Engine
from verifier.errors import QueueFull
from verifier.loading import LoadedModel
from verifier.request import GenerationRequest, SamplingParams, Speculation, StepOutput, StopRules

ADVERSARIES = [frozenset({f"adversary_{shape}"}) for shape in SHAPES]
SPECULATIONS = [
    Speculation(mode="off"),
    Speculation(mode="auto"),
    Speculation(mode="fixed", max_nodes=6),
    Speculation(mode="fixed", max_nodes=12, sources=frozenset({"draft_model"})),
    Speculation(mode="fixed", max_nodes=12, sources=frozenset({"draft_model", "prediction"})),
    *(Speculation(mode="fixed", max_nodes=16, sources=names) for names in ADVERSARIES),
]
SHARED = tuple(range(100, 130))
Key = tuple[str, int]


class Disorder(NamedTuple):
    """What came of a run: every choice's outputs, and who was cancelled."""

    outputs: dict[Key, list[StepOutput]]
    cancelled: set[str]
    refused: int  # submissions that found the queue full


def random_request(dice: random.Random, number: int) -> GenerationRequest:
    prompt = tuple(dice.randrange(3, 320) for _ in range(dice.randrange(1, 30)))
    if dice.random() < 0.4:
        prompt = SHARED + prompt[:6]
    sampling = SamplingParams(
        temperature=dice.choice([0.0, 0.7, 1.2]),
        top_p=dice.choice([1.0, 0.9]),
        top_k=dice.choice([0, 20]),
        min_p=dice.choice([0.0, 0.02]),
        repetition_penalty=dice.choice([1.0, 1.2]),
        frequency_penalty=dice.choice([0.0, 0.4]),
        logit_bias=dice.choice([{}, {5: 3.0}]),
        seed=dice.getrandbits(64),
    )
    most = dice.randrange(1, 40)
    stops = StopRules(
        max_tokens=most,
        min_tokens=dice.choice([0, most // 2]),
        stop=dice.choice([(), ("e",), ("ab", "th")]),
        stop_token_ids=dice.choice([frozenset(), frozenset(range(200, 204))]),
        ignore_eos=dice.random() < 0.5,
    )
    return GenerationRequest(
        request_id=str(number // 2),  # pairs are two choices of one request
        choice=number % 2,
        model="llama",
        prompt=prompt,
        sampling=sampling,
        stops=stops,
        speculation=dice.choice(SPECULATIONS),
        top_logprobs=dice.choice([None, 0, 2]),
        cache_salt=dice.choice(["", "tenant"]),
    )


def solo(drive: Any, engine: Engine, request: GenerationRequest) -> Written:
    """The request alone, by the plain loop, no page shared."""
    plain = replace(
        request,
        speculation=Speculation(mode="off"),
        cache_salt=f"{request.request_id} {request.choice}",
    )
    return written(drive.run(engine, plain)[0])


def informed(request: GenerationRequest, alone: Written) -> GenerationRequest:
    """The same, with what it will write as a reference, and a wrong prediction of it."""
    references = (Reference(TRUTH, alone.tokens), Reference("prediction", alone.tokens[::-1]))
    return replace(request, references=references)


def disorder(engine: Engine, requests: list[GenerationRequest], dice: random.Random) -> Disorder:
    """Run ``requests``, arriving at random moments; some are cancelled, some find no room."""
    result = Disorder({}, set(), 0)
    refused = 0
    coming = list(requests)
    while coming or engine.has_work():
        for _ in range(min(len(coming), dice.choice([0, 0, 1, 1, 4, 9]))):
            try:
                engine.submit(coming[-1])
            except QueueFull:
                refused += 1
                break
            result.outputs[coming[-1].request_id, coming[-1].choice] = []
            coming.pop()
        if dice.random() < 0.05:
            victim = dice.choice(requests).request_id
            engine.cancel(victim)
            result.cancelled.add(victim)
        for output in engine.step():
            result.outputs[output.request_id, output.choice].append(output)
    return result._replace(refused=refused)


def difference(alone: Written, found: Written, name: str) -> bool:
    """Whether the two differ, which only a narrow decision may make them do."""
    if found.ending[0] == "cancelled":
        size = len(found.tokens)
        assert alone.text.startswith(found.text) or found.tokens != alone.tokens[:size]
        alone = replace(alone, tokens=alone.tokens[:size], text=found.text, ending=found.ending)
    result = compare(alone, found, case="chaos", variant=name, bound=1e-4).difference
    assert result is None or result.explained, result
    return result is not None


def check_empty(engine: Engine) -> None:
    """Every page free or kept without a reference, no slot taken, no row held."""
    assert engine.step() == [] and not engine.has_work()
    cache = engine._decoders["llama"].cache
    pool = cache.pool
    assert [pool.references(page) for page in range(pool.total)] == [0] * pool.total
    assert (pool.used, pool.available) == (0, pool.total)
    assert cache._leases == [] and cache.rows.slots == 0
    pages = pool.take(pool.total)  # kept ones too can be had
    assert sorted(pages) == list(range(pool.total)) and pool.cached == 0
    pool.release(pages)
    stats = engine.stats().models["llama"]
    assert stats.pages_used == stats.running == stats.waiting == 0


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[tuple[int, int]]]:
    """States that draft models keep for requests, as they come and go."""
    kept: set[tuple[int, int]] = set()
    seen: list[int] = []
    right_open, right_close = DraftNetwork.open, DraftNetwork.close

    def open_one(self: DraftNetwork) -> int:
        handle = right_open(self)
        kept.add((id(self), handle))
        seen.append(handle)
        return handle

    def close_one(self: DraftNetwork, handle: int) -> None:
        kept.remove((id(self), handle))
        right_close(self, handle)

    monkeypatch.setattr(DraftNetwork, "open", open_one)
    monkeypatch.setattr(DraftNetwork, "close", close_one)
    yield kept
    assert seen, "no draft model was asked"
    assert not kept, "states of draft models are left over"


def check_chaos(
    drive: Any, llama: LoadedModel, drafter: LoadedModel, count: int, seed: int
) -> None:
    dice = random.Random(seed)
    plain = drive.engine(llama, speculation=False, max_running=1)
    engine = Engine(
        {"llama": llama, "drafter": drafter},
        replace(
            plain.config,
            speculation=True,
            draft_models={"llama": "drafter"},
            pages=24,
            page_size=4,
            max_running=6,
            max_waiting=count // 4,
            step_tokens=24,
        ),
        extra_sources=adversaries(llama.vocab_size),
    )
    requests = [random_request(dice, number) for number in range(count)]
    alone = {(one.request_id, one.choice): solo(drive, plain, one) for one in requests}
    requests = [informed(one, alone[one.request_id, one.choice]) for one in requests]
    result = disorder(engine, requests, dice)
    stats = engine.stats().models["llama"]
    assert min(stats.preemptions, stats.prefix_hit_tokens, stats.accepted, result.refused) > 0
    assert result.cancelled
    check_empty(engine)
    differing = 0
    for key, outputs in result.outputs.items():
        assert outputs, f"{key} was never answered"
        differing += difference(alone[key], written(outputs), str(key))
    assert differing <= count // 50


def test_every_text_equals_its_solo_run_and_everything_is_free(
    llama: LoadedModel, drafter: LoadedModel, drive: Any, handles: set[tuple[int, int]]
) -> None:
    check_chaos(drive, llama, drafter, count=120, seed=1)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(8))
def test_hundreds_of_requests_end_the_same_way(
    llama: LoadedModel, drafter: LoadedModel, drive: Any, handles: set[tuple[int, int]], seed: int
) -> None:
    check_chaos(drive, llama, drafter, count=400, seed=100 + seed)
