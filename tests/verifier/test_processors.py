"""Processors do what OpenAI and vLLM document, on this branch's own tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.errors import RequestRefused, VerifierError
from verifier.processors import Processors
from verifier.request import SamplingParams

VOCAB = 40


def made(sampling, *, prompt=(), output=(), **rest):
    processors = Processors(sampling, prompt=prompt, vocab_size=rest.pop("vocab", VOCAB), **rest)
    for token in output:
        processors.push(token)
    return processors


def expected_survivors(logits, params, prompt, output, min_tokens, stops):
    """The same rules, one token at a time, with full sorts."""
    scores = {token: float(value) for token, value in enumerate(logits)}
    for token in scores:
        if token in prompt or token in output:
            penalty = params.repetition_penalty
            scores[token] *= 1 / penalty if scores[token] > 0 else penalty
        count = output.count(token)
        scores[token] -= params.frequency_penalty * count
        scores[token] -= params.presence_penalty * (count > 0)
        scores[token] += params.logit_bias.get(token, 0.0)
    if len(output) < min_tokens:
        for token in stops:
            del scores[token]
    scores = {token: score / params.temperature for token, score in scores.items()}
    ranked = sorted(scores, key=lambda token: (-scores[token], token))
    if params.top_k:
        ranked = ranked[: params.top_k]
    top = scores[ranked[0]]
    total = sum(math.exp(scores[token] - top) for token in ranked)
    kept, mass = [], 0.0
    for token in ranked:
        if mass < params.top_p * total or params.top_p == 1.0:
            kept.append(token)
        mass += math.exp(scores[token] - top)
    if params.min_p:
        kept = [token for token in kept if scores[token] >= top + math.log(params.min_p)]
    return {token: scores[token] for token in kept}


sampling_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.5]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 0.999, 1.0]),
    top_k=st.sampled_from([0, 1, 5, 39, 40, 100]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    presence_penalty=st.sampled_from([0.0, -2.0, 0.8]),
    frequency_penalty=st.sampled_from([0.0, 0.5, -1.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), max_size=4),
)


@settings(max_examples=300, deadline=None)
@given(
    params=sampling_params,
    seed=st.integers(0, 2**32 - 1),
    prompt=st.lists(st.integers(0, VOCAB - 1), max_size=8),
    output=st.lists(st.integers(0, VOCAB - 1), max_size=8),
    min_tokens=st.integers(0, 8),
)
def test_every_combination_agrees_with_the_rules_written_out(
    params, seed, prompt, output, min_tokens
):
    logits = np.random.default_rng(seed).normal(0, 3, VOCAB).astype(np.float32)
    processors = made(params, prompt=prompt, output=output, min_tokens=min_tokens, stop_ids=[1, 2])
    found = processors.survivors(logits)
    expected = expected_survivors(logits, params, prompt, output, min_tokens, [1, 2])
    assert found.tokens.tolist() == sorted(expected)
    assert found.logits == pytest.approx([expected[token] for token in sorted(expected)])


@pytest.mark.parametrize("seed", range(5))
def test_filters_agree_with_those_of_transformers(seed):
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as hf

    logits = np.random.default_rng(seed).normal(0, 3, 500).astype(np.float32)
    prompt, output = [1, 2, 3], [3, 4, 9]
    params = SamplingParams(
        temperature=0.8, top_k=100, top_p=0.9, min_p=0.01, repetition_penalty=1.2
    )
    ids, scores = torch.tensor([prompt + output]), torch.tensor(logits)[None]
    for process in (
        hf.RepetitionPenaltyLogitsProcessor(1.2),
        hf.TemperatureLogitsWarper(0.8),
        hf.TopKLogitsWarper(100),
        hf.TopPLogitsWarper(0.9),
        hf.MinPLogitsWarper(0.01),
    ):
        scores = process(ids, scores)
    kept = torch.isfinite(scores[0]).nonzero()[:, 0]
    found = made(params, prompt=prompt, output=output, vocab=500).survivors(logits)
    assert found.tokens.tolist() == kept.tolist()
    assert found.logits == pytest.approx(scores[0, kept].numpy(), rel=1e-5)


def test_the_prompt_counts_for_repetition_only():
    logits = np.array([2.0, 2.0, 2.0, -2.0], dtype=np.float32)
    params = SamplingParams(
        repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.5, temperature=1.0
    )
    found = made(params, prompt=[0, 3], output=[1, 1], vocab=4).survivors(logits)
    assert found.logits.tolist() == [1.0, 1.0 - 0.25 - 2 * 0.5, 2.0, -4.0]


def test_a_branch_that_is_left_leaves_no_trace():
    params = SamplingParams(repetition_penalty=1.5, presence_penalty=1.0, frequency_penalty=1.0)
    logits = np.random.default_rng(0).normal(0, 3, VOCAB).astype(np.float32)
    processors = made(params, prompt=[5], output=[7, 7])
    before = processors.survivors(logits)
    for token in range(VOCAB):
        processors.push(token)
    for _ in range(VOCAB):
        processors.pop()
    after = processors.survivors(logits)
    assert np.array_equal(before.logits, after.logits)


def test_more_distinct_tokens_than_first_provided_for_are_counted():
    params = SamplingParams(presence_penalty=1.0, temperature=1.0)
    output = list(range(0, 400, 2))
    found = made(params, output=output, vocab=400).survivors(np.zeros(400, dtype=np.float32))
    assert found.logits.tolist() == [-1.0 if token % 2 == 0 else 0.0 for token in range(400)]


def test_stops_are_banned_until_the_minimum_length_and_not_after():
    logits = np.array([0.0, 5.0, 1.0], dtype=np.float32)
    processors = made(SamplingParams(temperature=0.0), min_tokens=2, stop_ids=[1], vocab=3)
    winners = []
    for _ in range(3):
        winners.append(int(processors.survivors(logits).logits.argmax()))
        processors.push(winners[-1])
    assert winners == [2, 2, 1]


def test_plain_greedy_begins_when_the_minimum_length_is_reached():
    processors = made(SamplingParams(temperature=0.0), min_tokens=1, stop_ids=[1])
    assert not processors.plain_greedy
    processors.push(0)
    assert processors.plain_greedy


@pytest.mark.parametrize(
    "field", [{"logit_bias": {1: 1.0}}, {"presence_penalty": 0.1}, {"repetition_penalty": 1.1}]
)
def test_greedy_with_a_processor_is_not_plain(field):
    assert not made(SamplingParams(temperature=0.0, **field)).plain_greedy


def test_ties_go_to_the_lowest_token():
    flat = np.zeros(VOCAB, dtype=np.float32)
    assert made(SamplingParams(top_k=3)).survivors(flat).tokens.tolist() == [0, 1, 2]
    assert made(SamplingParams(top_p=0.05)).survivors(flat).tokens.tolist() == [0, 1]


def test_a_nucleus_larger_than_the_first_guess_is_found():
    flat = np.zeros(5000, dtype=np.float32)
    found = made(SamplingParams(top_p=0.5), vocab=5000).survivors(flat)
    assert len(found.tokens) in (2500, 2501)  # 2,500 / 5,000 sums to 0.5 up to rounding


def test_logits_given_stay_unchanged():
    logits = np.random.default_rng(3).normal(size=VOCAB).astype(np.float32)
    copy = logits.copy()
    made(SamplingParams(temperature=0.5, logit_bias={1: 5.0}, top_k=2)).survivors(logits)
    assert np.array_equal(logits, copy)


def test_tokens_the_model_rules_out_never_survive():
    logits = np.array([0.0, -np.inf, 1.0], dtype=np.float32)
    assert made(SamplingParams(), vocab=3).survivors(logits).tokens.tolist() == [0, 2]


def test_nan_is_an_error_wherever_it_stands():
    logits = np.array([0.0, np.nan, 1.0], dtype=np.float32)
    with pytest.raises(VerifierError, match="token 1"):
        made(SamplingParams(), vocab=3).survivors(logits)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", math.nan),
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("min_p", 1.5),
        ("min_p", math.nan),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -math.inf),
        ("repetition_penalty", 0.0),
        ("logit_bias", {VOCAB: 1.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: 101.0}),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(RequestRefused, match="expected") as refusal:
        made(SamplingParams(**{field: value}))
    assert refusal.value.param == field


def test_the_boundary_of_top_k_is_the_gap_behind_the_last_kept():
    logits = np.array([3.0, 1.0, 0.75, -2.0], dtype=np.float32)
    assert made(SamplingParams(top_k=2), vocab=4).survivors(logits).boundary == 0.25
    assert made(SamplingParams(top_k=2, temperature=0.5), vocab=4).survivors(logits).boundary == 0.5


def test_the_boundary_of_top_p_is_its_distance_in_probability():
    logits = np.log(np.array([0.5, 0.3, 0.2], dtype=np.float64)).astype(np.float32)
    found = made(SamplingParams(top_p=0.79), vocab=3).survivors(logits)
    assert found.tokens.tolist() == [0, 1]
    assert found.boundary == pytest.approx(0.01, rel=1e-4)


def test_the_boundary_of_min_p_is_a_distance_of_logits():
    logits = np.array([0.0, math.log(0.25) + 0.125, -9.0], dtype=np.float32)
    found = made(SamplingParams(min_p=0.25), vocab=3).survivors(logits)
    assert found.tokens.tolist() == [0, 1]
    assert found.boundary == pytest.approx(0.125, rel=1e-5)


def test_without_a_filter_there_is_no_boundary():
    assert made(SamplingParams()).survivors(np.zeros(VOCAB, np.float32)).boundary == math.inf
