"""What one request is given does not depend on who shares its steps, or on what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from transformers import LlamaConfig

from drafting.source import Reference
from verifier.certificate_cases import Variant, prompts_of, variants
from verifier.certificate_runs import Written, compare, run_plain, written
from verifier.certificate_sources import TRUTH, adversaries
from verifier.engine import Engine, EngineConfig
from verifier.loading import LoadedModel, load_model
from verifier.request import GenerationRequest, SamplingParams, Speculation, StopRules

TOKENS = 20
BROKEN = 77  # the token whose embedding is NaN; one test lets sources draft it
BUSH = Speculation(mode="fixed", sources=frozenset({"adversary_bush"}), max_nodes=16)
HOT = SamplingParams(temperature=1.2, seed=9)


@pytest.fixture(scope="module")
def fragile(make_model: Any) -> LoadedModel:
    """A model that gives NaN to whoever uses one token."""
    model = load_model(make_model(LlamaConfig, 3), name="llama")
    embedding: Any = model.network
    embedding.embedding[BROKEN] = float("nan")
    return model


@pytest.fixture(scope="module")
def watched(fragile: LoadedModel) -> list[Variant]:
    """Nine requests of every kind; their texts must never change."""
    prompts = prompts_of(fragile, (), longest=60)
    prompts = [tuple(t for t in prompt if t != BROKEN) for prompt in prompts]
    return variants(prompts, requests=9, tokens=TOKENS, vocabulary=fragile.vocab_size)


@pytest.fixture(scope="module")
def alone(fragile: LoadedModel, watched: list[Variant]) -> list[Written]:
    engine = Engine({"llama": fragile}, EngineConfig(speculation=False, max_running=1))
    return run_plain(engine, "llama", watched)


def own(watched: Sequence[Variant], alone: Sequence[Written]) -> list[GenerationRequest]:
    """The watched requests, all of them speculating."""
    return [
        one.request("llama", index, speculation=BUSH, references=(Reference(TRUTH, truth.tokens),))
        for index, (one, truth) in enumerate(zip(watched, alone, strict=True))
    ]


def neighbour(name: str, prompt: tuple[int, ...], **more: Any) -> GenerationRequest:
    fields: dict[str, Any] = {
        "sampling": HOT,
        "stops": StopRules(max_tokens=TOKENS, ignore_eos=True),
        **more,
    }
    return GenerationRequest(request_id=name, model="llama", prompt=prompt, **fields)


def short(step: int) -> list[GenerationRequest]:
    return [neighbour(f"n{step}", (5 + step % 9,), stops=StopRules(max_tokens=1 + step % 3))]


def long(step: int) -> list[GenerationRequest]:
    prompt = tuple((7 * at + step) % 60 + 3 for at in range(120))
    return [neighbour(f"n{step}", prompt, speculation=Speculation(mode="off"))]


def alike(step: int) -> list[GenerationRequest]:
    """Begins like the watched ones, then goes elsewhere: shares their pages, not their tokens."""
    return [neighbour(f"n{step}", (*range(100, 124), step % 50 + 3))]


def not_finite(step: int) -> list[GenerationRequest]:
    return [neighbour(f"n{step}", (9, 8, BROKEN, 7, 6, 5))]


def drafting_madly(step: int) -> list[GenerationRequest]:
    wild = Speculation(mode="fixed", sources=frozenset({"adversary_random"}), max_nodes=32)
    return [neighbour(f"n{step}", (11, 12, 13), speculation=wild)]


NEIGHBOURS = [short, long, alike, not_finite, drafting_madly]


def run_among(
    engine: Engine,
    requests: Sequence[GenerationRequest],
    company: Callable[[int], list[GenerationRequest]],
    *,
    cancel_after: int | None = None,
) -> list[Written]:
    """Decode ``requests``; at every step somebody else joins, and may be cancelled again."""
    outputs: dict[str, list[Any]] = {request.request_id: [] for request in requests}
    step = 0
    for request in requests:
        engine.submit(request)
    while any(not of_one or of_one[-1].receipt is None for of_one in outputs.values()):
        if step < 60:
            for one in company(step):
                engine.submit(one)
        if cancel_after is not None and step >= cancel_after:
            engine.cancel(f"n{step - cancel_after}")
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        step += 1
    for number in range(step):
        engine.cancel(f"n{number}")
    engine.step()
    return [written(outputs[request.request_id]) for request in requests]


def check_same(
    alone: Sequence[Written], among: Sequence[Written], watched: Sequence[Variant]
) -> None:
    for before, after, variant in zip(alone, among, watched, strict=True):
        found = compare(before, after, case="", variant=variant.name, bound=1e-4)
        assert found.difference is None or found.difference.explained, found.difference


@pytest.mark.parametrize("company", NEIGHBOURS)
def test_a_text_does_not_depend_on_its_neighbours(
    fragile: LoadedModel,
    watched: list[Variant],
    alone: list[Written],
    company: Callable[[int], list[GenerationRequest]],
) -> None:
    config = EngineConfig(max_running=24, max_waiting=99, page_size=8, step_tokens=48)
    engine = Engine({"llama": fragile}, config, extra_sources=adversaries(fragile.vocab_size))
    among = run_among(engine, own(watched, alone), company)
    check_same(alone, among, watched)
    assert engine.stats().models["llama"].pages_used == 0


@pytest.mark.parametrize("company", [long, alike, not_finite])
def test_a_text_does_not_depend_on_neighbours_that_are_cancelled(
    fragile: LoadedModel,
    watched: list[Variant],
    alone: list[Written],
    company: Callable[[int], list[GenerationRequest]],
) -> None:
    config = EngineConfig(max_running=24, max_waiting=99, page_size=8, step_tokens=48)
    engine = Engine({"llama": fragile}, config, extra_sources=adversaries(BROKEN))
    among = run_among(engine, own(watched, alone), company, cancel_after=2)
    check_same(alone, among, watched)
    assert engine.stats().models["llama"].pages_used == 0


@pytest.mark.parametrize("company", [short, long, not_finite])
def test_a_text_does_not_depend_on_who_is_preempted(
    fragile: LoadedModel,
    watched: list[Variant],
    alone: list[Written],
    company: Callable[[int], list[GenerationRequest]],
) -> None:
    config = EngineConfig(max_running=8, max_waiting=99, page_size=4, pages=40, step_tokens=32)
    engine = Engine({"llama": fragile}, config, extra_sources=adversaries(BROKEN))
    requests = own(watched, alone)
    among = run_among(engine, requests[::-1], company)[::-1]
    check_same(alone, among, watched)
    stats = engine.stats().models["llama"]
    assert stats.preemptions > 0 and stats.pages_used == 0


def test_the_neighbours_that_break_do_break(fragile: LoadedModel) -> None:
    """Else the tests above would show nothing."""
    engine = Engine({"llama": fragile}, EngineConfig(speculation=False))
    engine.submit(not_finite(0)[0])
    [output] = engine.step()
    assert output.error is not None and "not finite" in output.error
