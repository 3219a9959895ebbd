"""The same tokens whatever the draft, batch, chunks and memory; and those of generate."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from verifier.loading import LoadedModel, load_model
from verifier.request import SamplingParams, Speculation

FAMILY = [
    (LlamaConfig, {}),
    (MistralConfig, {"sliding_window": 9}),
    (Qwen2Config, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    (Qwen3Config, {"head_dim": 16}),
]
PROMPTS = [
    tuple(range(10, 40)),
    (5, 6, 7, 5, 6, 7, 5, 6),
    (9,),
    tuple((7 * n) % 300 + 3 for n in range(70)),
]
FIXED = Speculation(mode="fixed", max_nodes=8)
SAMPLED = SamplingParams(temperature=0.8, top_p=0.9, top_k=40, seed=7)
PENALISED = SamplingParams(
    temperature=0.7,
    presence_penalty=0.5,
    frequency_penalty=0.3,
    repetition_penalty=1.2,
    min_p=0.02,
    logit_bias={11: 2.0, 12: -5.0},
    seed=2**63 + 5,
)
HOT = SamplingParams(temperature=1.2, seed=3)
GREEDY = SamplingParams(temperature=0.0)


@cache
def generated(path: Path, prompt: tuple[int, ...], tokens: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    found: list[int] = out[0, len(prompt) :].tolist()
    return found


@pytest.mark.parametrize("mode", ["off", "auto", "fixed"])
@pytest.mark.parametrize(("config_class", "changes"), FAMILY)
def test_greedy_tokens_equal_those_of_generate_for_a_batch(
    make_model: Any, drive: Any, config_class: type[Any], changes: dict[str, Any], mode: str
) -> None:
    path = make_model(config_class, **changes)
    engine = drive.engine(load_model(path, name="llama"), step_tokens=32)
    speculation = FIXED if mode == "fixed" else Speculation(mode=mode)
    requests = [
        drive.request(prompt, name=str(index), speculation=speculation)
        for index, prompt in enumerate(PROMPTS)
    ]
    for prompt, outputs in zip(PROMPTS, drive.run(engine, *requests), strict=True):
        assert drive.tokens(outputs) == generated(path, prompt, 24)


_PLAIN: dict[str, list[list[int]]] = {}


def plain(drive: Any, model: LoadedModel, sampling: SamplingParams) -> list[list[int]]:
    """Tokens of every prompt, one request at a time, nothing drafted, nothing shared."""
    key = f"{model.fingerprint} {sampling}"
    if key not in _PLAIN:
        engine = drive.engine(model, speculation=False)
        requests = [
            drive.request(prompt, sampling=sampling, cache_salt=str(index))
            for index, prompt in enumerate(PROMPTS)
        ]
        _PLAIN[key] = [drive.tokens(drive.run(engine, request)[0]) for request in requests]
    return _PLAIN[key]


def batch(drive: Any, sampling: SamplingParams, speculation: Speculation, **more: Any) -> list[Any]:
    return [
        drive.request(prompt, name=str(index), sampling=sampling, speculation=speculation, **more)
        for index, prompt in enumerate(PROMPTS)
    ]


def test_a_good_draft_is_accepted_at_any_temperature(
    llama: LoadedModel, make_model: Any, drive: Any
) -> None:
    """The same weights as target and draft: noise is shared, so nearly all is accepted."""
    twin = load_model(make_model(LlamaConfig), name="twin")
    engine = drive.engine(llama, twin, draft_models={"llama": "twin"})
    for sampling in (GREEDY, SAMPLED, HOT):
        speculation = Speculation(mode="fixed", sources=frozenset({"draft_model"}), max_nodes=16)
        request = drive.request(PROMPTS[0], sampling=sampling, speculation=speculation)
        receipt = drive.run(engine, request)[0][-1].receipt
        assert receipt.steps <= 24 / 2


@pytest.mark.parametrize("step_tokens", [1, 5, 16, 33])
def test_chunked_prefill_changes_nothing(llama: LoadedModel, drive: Any, step_tokens: int) -> None:
    engine = drive.engine(llama, step_tokens=step_tokens)
    results = drive.run(engine, *batch(drive, SAMPLED, Speculation()))
    assert [drive.tokens(outputs) for outputs in results] == plain(drive, llama, SAMPLED)


@pytest.mark.parametrize("speculation", [Speculation(mode="off"), FIXED])
def test_a_pool_so_small_that_requests_are_preempted_changes_nothing(
    llama: LoadedModel, drive: Any, speculation: Speculation
) -> None:
    engine = drive.engine(llama, pages=25, page_size=4, step_tokens=32)
    results = drive.run(engine, *batch(drive, SAMPLED, speculation))
    assert [drive.tokens(outputs) for outputs in results] == plain(drive, llama, SAMPLED)
    stats = engine.stats().models["llama"]
    assert stats.preemptions > 0
    assert stats.pages_used == 0


def test_a_shared_prefix_is_not_computed_again_and_changes_nothing(
    llama: LoadedModel, drive: Any
) -> None:
    engine = drive.engine(llama, page_size=8)
    prompt = PROMPTS[3]
    request = drive.request(prompt, sampling=SAMPLED, speculation=FIXED)
    first, second = (drive.run(engine, request)[0] for _ in range(2))
    assert drive.tokens(first) == drive.tokens(second)
    assert first[-1].receipt.cached_prompt_tokens == 0
    assert second[-1].receipt.cached_prompt_tokens == 64  # of 70, in pages of 8
    whole = prompt + tuple(drive.tokens(first))
    [third] = drive.run(engine, drive.request(whole, sampling=SAMPLED))
    assert third[-1].receipt.cached_prompt_tokens == 88  # of 94: output is reused too
    [fourth] = drive.run(drive.engine(llama), drive.request(whole, sampling=SAMPLED))
    assert drive.tokens(third) == drive.tokens(fourth)


def test_a_prefix_is_not_shared_between_tenants(llama: LoadedModel, drive: Any) -> None:
    engine = drive.engine(llama, page_size=8)
    for salt in ("a", "b"):
        [outputs] = drive.run(engine, drive.request(PROMPTS[3], cache_salt=salt))
        assert outputs[-1].receipt.cached_prompt_tokens == 0


def test_a_request_does_not_depend_on_its_neighbours(llama: LoadedModel, drive: Any) -> None:
    expected = plain(drive, llama, HOT)
    for order in itertools.permutations(range(4), 2):
        requests = batch(drive, HOT, FIXED)
        engine = drive.engine(llama, step_tokens=40)
        for index in order:
            engine.submit(requests[index])
            engine.step()
        found = drive.drain(engine)
        for index in order:
            tokens = drive.tokens(found[str(index), 0])
            assert tokens == expected[index][-len(tokens) :]


def test_choices_of_one_request_differ_and_repeat(llama: LoadedModel, drive: Any) -> None:
    def both() -> list[list[int]]:
        requests = [drive.request(PROMPTS[0], sampling=HOT, choice=choice) for choice in range(2)]
        return [drive.tokens(outputs) for outputs in drive.run(drive.engine(llama), *requests)]

    first, second = both(), both()
    assert first == second
    assert first[0] != first[1]


def test_logprobs_are_those_of_transformers_with_and_without_drafts(
    llama: LoadedModel, llama_path: Path, drive: Any
) -> None:
    prompt = PROMPTS[1]
    reference = AutoModelForCausalLM.from_pretrained(llama_path)
    for speculation in (Speculation(mode="off"), FIXED):
        request = drive.request(prompt, sampling=PENALISED, speculation=speculation, top_logprobs=3)
        outputs = drive.run(drive.engine(llama), request)[0]
        tokens = drive.tokens(outputs)
        entries = [entry for output in outputs for entry in output.logprobs]
        with torch.inference_mode():
            logits = reference(torch.tensor([[*prompt, *tokens]])).logits[0]
        scores = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        assert [entry.token_id for entry in entries] == tokens
        for row, entry in zip(scores, entries, strict=True):
            assert entry.logprob == pytest.approx(row[entry.token_id].item(), abs=1e-3)
            assert [token for token, _ in entry.top] == row.topk(3).indices.tolist()
            assert all(
                value == pytest.approx(row[token].item(), abs=1e-3) for token, value in entry.top
            )
