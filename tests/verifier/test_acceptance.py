"""Drafts change neither which tokens come out nor how they are distributed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drafting.tree import EMPTY, ROOT, DraftTree
from verifier.acceptance import ChoiceSampler, Decision, Verdict
from verifier.errors import VerifierError
from verifier.margin import NARROW
from verifier.noise import TargetNoise
from verifier.peaks import peaks
from verifier.processors import Processors
from verifier.request import SamplingParams

DIGEST = b"weights"
PROCESSOR_SETS = {
    "none": {},
    "top_k": {"top_k": 4},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.1},
    "penalties": {"presence_penalty": 1.0, "frequency_penalty": 0.7, "repetition_penalty": 1.3},
    "bias": {"logit_bias": {0: 2.0, 3: -3.0}},
    "all": {
        "top_k": 6,
        "top_p": 0.9,
        "min_p": 0.02,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.2,
        "logit_bias": {1: 1.0},
    },
}


def toy_logits(prefix: tuple[int, ...], vocab: int) -> np.ndarray:
    """A model: what it thinks of a prefix is arbitrary, but always the same."""
    logits = np.random.default_rng([len(prefix), *prefix]).normal(0, 2, vocab)
    return logits.astype(np.float32)


def path_to(tree: DraftTree, node: int) -> tuple[int, ...]:
    return () if node == ROOT else (*path_to(tree, tree.parents[node]), tree.tokens[node])


def tree_logits(context: tuple[int, ...], tree: DraftTree, vocab: int) -> np.ndarray:
    prefixes = [context + path_to(tree, node) for node in range(ROOT, len(tree))]
    return np.stack([toy_logits(prefix, vocab) for prefix in prefixes])


def tree_of(edges: list[tuple[int, int]]) -> DraftTree:
    """A tree from (parent, token) pairs, duplicates left out."""
    distinct = list(dict.fromkeys(edges))
    tokens = tuple(token for _, token in distinct)
    return DraftTree(tokens, tuple(p for p, _ in distinct), (frozenset({"test"}),) * len(tokens))


def random_tree(rng: np.random.Generator, vocab: int, hint: tuple[int, ...] = ()) -> DraftTree:
    """Any tree; with a ``hint``, that path is in it."""
    edges = [(place - 1, token) for place, token in enumerate(hint)]
    for _ in range(int(rng.integers(0, 10))):
        distinct = list(dict.fromkeys(edges))
        edges = [*distinct, (int(rng.integers(ROOT, len(distinct))), int(rng.integers(vocab)))]
    return tree_of(edges)


def sampler(params: SamplingParams, prompt: tuple[int, ...], vocab: int, **rest) -> ChoiceSampler:
    noise = TargetNoise(params.seed, 0, DIGEST) if params.temperature else None
    processors = Processors(params, prompt=prompt, vocab_size=vocab, **rest)
    return ChoiceSampler(processors, noise, prompt_tokens=len(prompt))


def decode(
    choice: ChoiceSampler,
    prompt: tuple[int, ...],
    vocab: int,
    length: int,
    draft: Callable[[int], DraftTree],
    *,
    with_peaks: bool = False,
) -> list[Verdict]:
    """The loop of an engine."""
    context, verdicts = prompt, []
    while len(context) - len(prompt) < length:
        tree = draft(len(context) - len(prompt))
        logits = tree_logits(context, tree, vocab)
        found = peaks(logits) if with_peaks else None
        verdict = choice.verify(tree, logits, peaks=found)
        choice.commit(verdict.tokens)
        context += verdict.tokens
        verdicts.append(verdict)
    return verdicts


def emitted(verdicts: list[Verdict], length: int) -> tuple[int, ...]:
    return tuple(token for verdict in verdicts for token in verdict.tokens)[:length]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.2])
@pytest.mark.parametrize("processors", PROCESSOR_SETS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), drafts=st.integers(0, 2**32 - 1))
def test_any_drafts_leave_every_token_as_the_plain_loop_has_it(
    processors, temperature, seed, drafts
):
    params = SamplingParams(temperature=temperature, seed=seed, **PROCESSOR_SETS[processors])
    prompt, vocab, length = (1, 2, 3), 8, 14
    rest = {"min_tokens": 5, "stop_ids": [2]}
    plain = decode(sampler(params, prompt, vocab, **rest), prompt, vocab, length, lambda _: EMPTY)
    wanted = emitted(plain, length)
    rng = np.random.default_rng(drafts)

    def draft(done: int) -> DraftTree:
        hint = wanted[done : done + int(rng.integers(0, 6))]
        return random_tree(rng, vocab, hint)

    drafted = decode(
        sampler(params, prompt, vocab, **rest),
        prompt,
        vocab,
        length,
        draft,
        with_peaks=bool(drafts % 2),
    )
    assert emitted(drafted, length) == wanted


def test_a_whole_right_draft_is_accepted_with_its_bonus():
    params = SamplingParams(temperature=0.9, seed=5)
    prompt, vocab = (4,), 8
    wanted = emitted(decode(sampler(params, prompt, vocab), prompt, vocab, 5, lambda _: EMPTY), 5)
    tree = tree_of([(ROOT, (wanted[0] + 1) % 8), (ROOT, wanted[0]), (1, wanted[1]), (2, wanted[2])])
    verdict = sampler(params, prompt, vocab).verify(tree, tree_logits(prompt, tree, vocab))
    assert verdict.path == (1, 2, 3)
    assert verdict.tokens == wanted[:4]
    assert verdict.rows == (0, 2, 3, 4)
    assert len(verdict.margins) == 4


def test_verifying_leaves_the_sampler_as_it_was():
    params = SamplingParams(temperature=0.9, seed=5, frequency_penalty=1.5)
    prompt, vocab = (4,), 8
    choice = sampler(params, prompt, vocab)
    tree = random_tree(np.random.default_rng(1), vocab)
    logits = tree_logits(prompt, tree, vocab)
    assert choice.verify(tree, logits) == choice.verify(tree, logits)
    assert choice.position == 1


def test_only_rows_on_the_walked_path_are_read():
    params = SamplingParams(temperature=1.0, seed=5)
    tree = tree_of([(ROOT, token) for token in range(8)])
    logits = np.full((9, 8), np.nan, dtype=np.float32)
    logits[0] = toy_logits((), 8)
    first = sampler(params, (), 8).verify(EMPTY, logits[:1]).tokens[0]
    logits[1 + first] = toy_logits((first,), 8)
    assert sampler(params, (), 8).verify(tree, logits).path == (first,)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_on_the_path_is_an_error(temperature):
    logits = np.full((1, 8), np.nan, dtype=np.float32)
    with pytest.raises(VerifierError, match=r"NaN|nan"):
        sampler(SamplingParams(temperature=temperature), (), 8).verify(EMPTY, logits)


def test_sampling_without_noise_is_refused():
    processors = Processors(SamplingParams(temperature=1.0), prompt=(), vocab_size=8)
    with pytest.raises(ValueError, match="no noise"):
        ChoiceSampler(processors, None, prompt_tokens=0)


def test_a_tie_goes_to_the_lowest_token_and_is_counted_as_narrow():
    logits = np.array([[0.0, 3.0, 3.0, 1.0]], dtype=np.float32)
    verdict = sampler(SamplingParams(temperature=0.0), (), 4).verify(EMPTY, logits)
    assert verdict == Verdict((), (1,), (0,), (0.0,), 1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_a_penalty_stretches_is_narrow_all_the_same(temperature):
    """A seen token's logit is divided by 0.01: its rounding error is a hundred times as large."""
    logits = np.array([[0.04, 4.0 - 5e-3, -5.0, -5.0]], dtype=np.float32)
    params = SamplingParams(temperature=temperature, repetition_penalty=0.01, seed=1)
    choice = sampler(params, (0,), 4)
    choice._noise = None if temperature == 0.0 else (lambda _, tokens: np.zeros(len(tokens)))
    verdict = choice.verify(EMPTY, logits)
    assert verdict.narrow == 1 and verdict.margins[0] == pytest.approx(5e-5, rel=0.01)


def test_in_half_precision_large_logits_make_a_decision_narrow():
    """Between 64 and 128 bfloat16 has steps of a half; one step apart is not to be relied on."""
    logits = np.array([[70.0, 69.5, 1.0, -9.0]], dtype=np.float32)
    processors = Processors(SamplingParams(temperature=0.0), prompt=(), vocab_size=4)
    for kind, narrow in (("float32", 0), ("float16", 0), ("bfloat16", 1)):
        choice = ChoiceSampler(processors, None, prompt_tokens=0, narrow=NARROW[kind])
        assert choice.verify(EMPTY, logits).narrow == narrow
    assert choice.verify(EMPTY, logits).margins[0] == pytest.approx(0.5 / 70.0)


@pytest.mark.parametrize(("temperature", "size"), [(1e-6, 1.0), (1.0, 3000.0)])
def test_leaving_out_hopeless_tokens_hides_no_narrow_margin(temperature, size):
    """Two tokens far apart as scores, and yet within the rounding of their logits."""
    noise = TargetNoise(3, 0, DIGEST)
    row = np.full(3000, -size, dtype=np.float32)
    row[7], row[11] = size, size * (1 - 2.0**-8)
    params = SamplingParams(temperature=temperature)
    processors = Processors(params, prompt=(), vocab_size=3000)
    choice = ChoiceSampler(processors, noise, prompt_tokens=0, narrow=NARROW["bfloat16"])
    assert choice.verify(EMPTY, row[None]).narrow == 1


def test_a_clear_decision_is_not_narrow():
    logits = np.array([[0.0, 3.0, 2.5, 1.0]], dtype=np.float32)
    assert sampler(SamplingParams(temperature=0.0), (), 4).verify(EMPTY, logits).narrow == 0


def test_a_filters_boundary_makes_a_decision_narrow():
    logits = np.array([[5.0, 1.0, 1.0 - 2e-5, -2.0]], dtype=np.float32)
    params = SamplingParams(temperature=1.0, top_k=2, seed=1)
    verdict = sampler(params, (), 4).verify(EMPTY, logits)
    assert verdict.narrow == 1
    assert verdict.margins[0] == pytest.approx(2e-5, rel=0.1)


@pytest.mark.parametrize("spread", [0.1, 3.0, 12.0])
def test_leaving_out_hopeless_tokens_changes_no_winner_and_no_narrow_margin(spread):
    vocab, noise = 3000, TargetNoise(3, 0, DIGEST)
    choice = sampler(SamplingParams(temperature=1.0, seed=3), (), vocab)
    for position in range(40):
        row = np.random.default_rng(position).normal(0, spread, vocab).astype(np.float32)
        scores = row.astype(np.float64) + noise(position, np.arange(vocab))
        second, best = np.sort(scores)[-2:]
        decision = choice.decide(row)
        assert decision.token == scores.argmax()
        assert min(decision.margin, 1.0) == pytest.approx(min(best - second, 1.0))
        choice.commit([0])


def test_decisions_name_their_token_and_margin():
    choice = sampler(SamplingParams(temperature=0.0), (), 3)
    row = np.array([1.0, 4.0, 2.0], dtype=np.float32)
    assert choice.decide(row) == Decision(1, 2.0)
