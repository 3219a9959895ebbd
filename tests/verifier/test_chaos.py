"""Seeded disorder: arrivals, cancellations, preemptions and stops over a tiny pool of pages."""

from __future__ import annotations

import random
from typing import Any

import pytest

from drafting.source import Reference
from verifier.engine import Engine
from verifier.loading import LoadedModel
from verifier.request import (
    GenerationRequest,
    SamplingParams,
    Speculation,
    StepOutput,
    StopRules,
)

SPECULATIONS = [
    Speculation(mode="off"),
    Speculation(mode="auto"),
    Speculation(mode="fixed", max_nodes=6),
    Speculation(mode="fixed", max_nodes=12, sources=frozenset({"draft_model"})),
]
SHARED = tuple(range(100, 130))


def random_request(dice: random.Random, number: int) -> GenerationRequest:
    prompt = tuple(dice.randrange(3, 320) for _ in range(dice.randrange(1, 30)))
    if dice.random() < 0.4:
        prompt = SHARED + prompt[:6]
    sampling = SamplingParams(
        temperature=dice.choice([0.0, 0.7, 1.2]),
        top_p=dice.choice([1.0, 0.9]),
        top_k=dice.choice([0, 20]),
        repetition_penalty=dice.choice([1.0, 1.2]),
        seed=dice.getrandbits(64),
    )
    stops = StopRules(
        max_tokens=dice.randrange(1, 40),
        stop=dice.choice([(), ("e",), ("ab", "th")]),
        stop_token_ids=dice.choice([frozenset(), frozenset(range(200, 204))]),
        ignore_eos=dice.random() < 0.5,
    )
    return GenerationRequest(
        request_id=str(number),
        model="llama",
        prompt=prompt,
        sampling=sampling,
        stops=stops,
        references=(Reference("prediction", prompt[::-1]),) if dice.random() < 0.3 else (),
        speculation=dice.choice(SPECULATIONS),
        cache_salt=dice.choice(["", "tenant"]),
    )


def solo(drive: Any, model: LoadedModel, request: GenerationRequest) -> list[StepOutput]:
    engine = drive.engine(model, speculation=False)
    plain = GenerationRequest(
        **{
            **{name: getattr(request, name) for name in request.__slots__},
            "speculation": Speculation(mode="off"),
        }
    )
    outputs: list[StepOutput] = drive.run(engine, plain)[0]
    return outputs


def disorder(
    engine: Engine, requests: list[GenerationRequest], dice: random.Random
) -> tuple[dict[str, list[StepOutput]], set[str]]:
    """Run ``requests``, arriving at random moments; some are cancelled."""
    found: dict[str, list[StepOutput]] = {request.request_id: [] for request in requests}
    cancelled: set[str] = set()
    coming = list(requests)
    while coming or engine.has_work():
        for _ in range(min(len(coming), dice.choice([0, 0, 1, 1, 4]))):
            engine.submit(coming.pop())
        if dice.random() < 0.05:
            victim = dice.choice(requests).request_id
            engine.cancel(victim)
            cancelled.add(victim)
        for output in engine.step():
            found[output.request_id].append(output)
    return found, cancelled


def check_chaos(
    drive: Any, llama: LoadedModel, drafter: LoadedModel, count: int, seed: int
) -> None:
    dice = random.Random(seed)
    engine = drive.engine(
        llama,
        drafter,
        draft_models={"llama": "drafter"},
        pages=24,
        page_size=4,
        max_running=6,
        max_waiting=count,
        step_tokens=24,
    )
    requests = [random_request(dice, number) for number in range(count)]
    found, cancelled = disorder(engine, requests, dice)
    narrow = 0
    for request in requests:
        outputs, alone = found[request.request_id], solo(drive, llama, request)
        if request.request_id in cancelled and outputs == []:
            continue
        tokens, text = drive.tokens(outputs), drive.text(outputs)
        if outputs[-1].finish_reason == "cancelled":
            same = tokens == drive.tokens(alone)[: len(tokens)]
            same = same and drive.text(alone).startswith(text)
        else:
            same = (tokens, text) == (drive.tokens(alone), drive.text(alone))
            same = same and outputs[-1].finish_reason == alone[-1].finish_reason
        receipt = outputs[-1].receipt
        assert same or receipt.narrow_margins > 0
        narrow += not same
    assert narrow <= count // 50
    stats = engine.stats().models["llama"]
    assert stats.preemptions > 0
    assert stats.prefix_hit_tokens > 0
    assert stats.accepted > 0
    assert stats.pages_used == stats.running == stats.waiting == 0


def test_every_text_equals_its_solo_run_and_every_page_is_free(
    llama: LoadedModel, drafter: LoadedModel, drive: Any
) -> None:
    check_chaos(drive, llama, drafter, count=60, seed=1)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(4))
def test_hundreds_of_requests_end_the_same_way(
    llama: LoadedModel, drafter: LoadedModel, drive: Any, seed: int
) -> None:
    check_chaos(drive, llama, drafter, count=300, seed=100 + seed)
