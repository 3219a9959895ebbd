"""Tokens come out as the target's own distribution has them, whatever is drafted: chi-square."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from drafting.tree import EMPTY, ROOT, DraftTree
from verifier.acceptance import ChoiceSampler, Verdict
from verifier.certificate_sources import adversaries
from verifier.engine import Engine, EngineConfig
from verifier.loading import LoadedModel, load_model
from verifier.noise import TargetNoise, gumbel, noise_counter, noise_key, philox4x32, round_keys
from verifier.processors import Processors, Survivors
from verifier.request import GenerationRequest, SamplingParams, Speculation, StopRules

DIGEST = b"weights"
VOCAB, LENGTH, PROMPT = 5, 3, (2, 4)
SEEDS = 50_000
REACH = LENGTH + 10  # a tree has at most nine nodes
Tokens = tuple[int, ...]
Scores = Callable[[Tokens], np.ndarray]
CASES = {
    "plain": SamplingParams(temperature=1.0),
    "hot": SamplingParams(temperature=1.7),
    "top_k": SamplingParams(temperature=0.9, top_k=3),
    "top_p": SamplingParams(temperature=1.2, top_p=0.8),
    "min_p": SamplingParams(temperature=1.2, min_p=0.1),
    "penalties": SamplingParams(
        temperature=1.0, presence_penalty=1.0, frequency_penalty=0.8, repetition_penalty=1.4
    ),
    "everything": SamplingParams(
        temperature=1.1,
        top_k=4,
        top_p=0.95,
        frequency_penalty=0.7,
        repetition_penalty=1.2,
        logit_bias={0: 0.5},
    ),
}


def toy(prefix: Tokens) -> np.ndarray:
    """A model: what it thinks of a prefix is arbitrary, but always the same."""
    logits = np.random.default_rng([len(prefix), *prefix]).normal(0, 2, VOCAB)
    return logits.astype(np.float32)


# --- What must come out, by enumeration; written without the code under test ---------------------


def enumerated(params: SamplingParams, scores: Scores) -> dict[Tokens, float]:
    """Probability of every three tokens."""
    joint: dict[Tokens, float] = {}
    for tokens in itertools.product(range(VOCAB), repeat=LENGTH):
        prob = 1.0
        for place, token in enumerate(tokens):
            prob *= next_probs(params, tokens[:place], scores)[token]
        joint[tokens] = prob
    return joint


def next_probs(params: SamplingParams, output: Tokens, scores_of: Scores) -> list[float]:
    scores = [float(value) for value in scores_of(PROMPT + output)]
    for token in range(VOCAB):
        if token in PROMPT + output:
            factor = params.repetition_penalty
            scores[token] *= 1 / factor if scores[token] > 0 else factor
        scores[token] -= params.frequency_penalty * output.count(token)
        scores[token] -= params.presence_penalty * (token in output)
        scores[token] += params.logit_bias.get(token, 0.0)
        scores[token] /= params.temperature
    ranked = sorted(range(VOCAB), key=lambda token: -scores[token])
    kept = ranked[: params.top_k or VOCAB]
    total = sum(math.exp(scores[token]) for token in kept)
    shares = [math.exp(scores[token]) / total for token in kept]
    before = [sum(shares[:place]) for place in range(len(kept))]
    kept = [
        token
        for token, mass, share in zip(kept, before, shares, strict=True)
        if mass < params.top_p and share >= params.min_p * shares[0]
    ]
    total = sum(math.exp(scores[token]) for token in kept)
    return [math.exp(scores[t]) / total if t in kept else 0.0 for t in range(VOCAB)]


def deviation(found: Iterable[Tokens], joint: Mapping[Tokens, float], seeds: int) -> float:
    """How many standard deviations chi-square lies above its mean (Wilson and Hilferty)."""
    counts: dict[Tokens, int] = {}
    for tokens in found:
        counts[tokens] = counts.get(tokens, 0) + 1
    assert sum(counts.values()) == seeds
    assert all(joint[tokens] > 0 for tokens in counts), "a token came out that never may"
    rare = [tokens for tokens, prob in joint.items() if 0 < prob * seeds < 5]
    cells = [
        (counts.get(tokens, 0), prob * seeds) for tokens, prob in joint.items() if prob * seeds >= 5
    ]
    if rare:
        pooled = sum(counts.get(tokens, 0) for tokens in rare)
        cells.append((pooled, sum(joint[tokens] for tokens in rare) * seeds))
    statistic = sum((count - mean) ** 2 / mean for count, mean in cells)
    freedom = len(cells) - 1
    cube = (statistic / freedom) ** (1 / 3)
    return (cube - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


# --- The rule of verification over many seeds at once --------------------------------------------


class RememberingProcessors(Processors):
    """The real ones, computed once for each branch: they do not depend on the seed."""

    def __init__(self, params: SamplingParams, known: dict[Tokens, Survivors]) -> None:
        super().__init__(params, prompt=PROMPT, vocab_size=VOCAB)
        self.known = known
        self.branch: Tokens = ()

    def push(self, token: int) -> None:
        super().push(token)
        self.branch += (token,)

    def pop(self) -> None:
        super().pop()
        self.branch = self.branch[:-1]

    def survivors(self, logits: np.ndarray) -> Survivors:
        if self.branch not in self.known:
            self.known[self.branch] = super().survivors(logits)
        return self.known[self.branch]


def noise_tables(seeds: int) -> np.ndarray:
    """The noise of many seeds at once: [seed, output index, token]."""
    keys = np.array([noise_key(seed, 0, DIGEST) for seed in range(seeds)], dtype=np.uint64)
    schedule = round_keys(keys[:, :1], keys[:, 1:])
    return np.stack(
        [
            gumbel(philox4x32(noise_counter(position, np.arange(VOCAB)), schedule)[0])
            for position in range(len(PROMPT), len(PROMPT) + REACH)
        ],
        axis=1,
    )


def test_the_tables_hold_the_noise_of_each_seed() -> None:
    tables = noise_tables(3)
    for seed in range(3):
        noise = TargetNoise(seed, 0, DIGEST)(len(PROMPT) + 1, np.arange(VOCAB))
        assert np.array_equal(tables[seed, 1], noise)


def tree_of(edges: Iterable[tuple[int, int]]) -> DraftTree:
    """A tree from (parent, token) pairs, duplicates left out."""
    distinct = list(dict.fromkeys(edges))
    tokens = tuple(token for _, token in distinct)
    return DraftTree(tokens, tuple(p for p, _ in distinct), (frozenset({"test"}),) * len(tokens))


def random_tree(dice: np.random.Generator) -> DraftTree:
    edges: list[tuple[int, int]] = []
    for _ in range(int(dice.integers(1, 10))):
        distinct = list(dict.fromkeys(edges))
        edges = [*distinct, (int(dice.integers(ROOT, len(distinct))), int(dice.integers(VOCAB)))]
    return tree_of(edges)


def path_to(tree: DraftTree, node: int) -> Tokens:
    return () if node == ROOT else (*path_to(tree, tree.parents[node]), tree.tokens[node])


Draft = Callable[[int, Tokens, np.ndarray], DraftTree]  # seed, output, its noise


def unrelated() -> Draft:
    """Ever other trees, which know nothing of the noise."""
    dice = np.random.default_rng(0)
    trees = [EMPTY, *(random_tree(dice) for _ in range(30))]
    return lambda seed, output, noise: trees[(seed + len(output)) % len(trees)]


def sharing_the_noise() -> Draft:
    """A draft model's two best at each node of a path, drawn with the target's own noise."""
    opinions: dict[Tokens, np.ndarray] = {}

    def opinion(prefix: Tokens) -> np.ndarray:
        if prefix not in opinions:
            other = np.random.default_rng([7, len(prefix), *prefix]).normal(0, 1, VOCAB)
            opinions[prefix] = toy(PROMPT + prefix) + other
        return opinions[prefix]

    def draft(seed: int, output: Tokens, noise: np.ndarray) -> DraftTree:
        edges: list[tuple[int, int]] = []
        path, node = output, ROOT
        for depth in range(2):
            best = np.argsort(-(opinion(path) + noise[len(output) + depth]))[:2].tolist()
            edges += [(node, token) for token in best]
            path, node = (*path, best[0]), len(edges) - 2
        return tree_of(edges)

    return draft


def drawn(
    params: SamplingParams,
    draft: Draft,
    seeds: int,
    choice_type: type[ChoiceSampler] = ChoiceSampler,
) -> Iterator[Tokens]:
    """The first three tokens of each seed."""
    tables = noise_tables(seeds)
    rows: dict[tuple[DraftTree, Tokens], np.ndarray] = {}
    known: dict[Tokens, Survivors] = {}
    for seed in range(seeds):
        table = tables[seed]
        choice = choice_type(
            RememberingProcessors(params, known),
            lambda position, tokens, table=table: table[position - len(PROMPT), tokens],
            prompt_tokens=len(PROMPT),
        )
        output: Tokens = ()
        while len(output) < LENGTH:
            tree = draft(seed, output, table)
            if (tree, output) not in rows:
                paths = [path_to(tree, node) for node in range(ROOT, len(tree))]
                rows[tree, output] = np.stack([toy(PROMPT + output + path) for path in paths])
            verdict = choice.verify(tree, rows[tree, output])
            tokens = verdict.tokens[: LENGTH - len(output)]
            choice.commit(tokens)
            output += tokens
        yield output


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.full if name == "hot" else []) for name in CASES],
)
def test_three_tokens_are_distributed_as_enumeration_says(name: str) -> None:
    found = drawn(CASES[name], unrelated(), SEEDS)
    assert deviation(found, enumerated(CASES[name], toy), SEEDS) < 4.0


@pytest.mark.parametrize(
    "name", ["plain", "top_p", pytest.param("everything", marks=pytest.mark.full)]
)
def test_drafts_drawn_with_the_targets_own_noise_bias_nothing(name: str) -> None:
    found = drawn(CASES[name], sharing_the_noise(), SEEDS)
    assert deviation(found, enumerated(CASES[name], toy), SEEDS) < 4.0


@pytest.mark.full
@pytest.mark.parametrize("name", CASES)
def test_the_distribution_holds_over_four_times_the_seeds(name: str) -> None:
    found = drawn(CASES[name], unrelated(), 4 * SEEDS)
    assert deviation(found, enumerated(CASES[name], toy), 4 * SEEDS) < 4.0


class EagerSampler(ChoiceSampler):
    """Biased on purpose: takes a drafted token whenever it is one of the two best."""

    def verify(self, tree: DraftTree, logits: np.ndarray, **known: Any) -> Verdict:
        children = {tree.tokens[node]: node for node, p in enumerate(tree.parents) if p == ROOT}
        survivors = self._processors.survivors(logits[0])
        scores = survivors.logits + self._noise(self.position, survivors.tokens)
        best = survivors.tokens[np.argsort(-scores)[:2]]
        wanted = next((int(token) for token in best if int(token) in children), None)
        if wanted is None:
            return super().verify(tree, logits, **known)
        return Verdict((children[wanted],), (wanted,), (0,), (0.0,), 0)


class StaleSampler(ChoiceSampler):
    """Biased on purpose: draws every token of a step with the noise of its first position."""

    @property
    def position(self) -> int:
        return self._prompt_tokens + self._processors.output_length // 2 * 2


@pytest.mark.parametrize("biased", [EagerSampler, StaleSampler])
def test_a_biased_rule_of_acceptance_fails_the_same_test(biased: type[ChoiceSampler]) -> None:
    found = drawn(CASES["plain"], unrelated(), 5_000, biased)
    assert deviation(found, enumerated(CASES["plain"], toy), 5_000) > 8.0


def test_one_biased_draw_in_twenty_fails_over_all_seeds() -> None:
    """What the number of seeds is good for."""
    fair = drawn(CASES["plain"], unrelated(), SEEDS)
    biased = drawn(CASES["plain"], unrelated(), SEEDS // 20, EagerSampler)
    mixed = [*itertools.islice(fair, SEEDS - SEEDS // 20), *biased]
    assert deviation(mixed, enumerated(CASES["plain"], toy), SEEDS) > 4.0


# --- The same through the engine: a network, pages, batches --------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A random Llama of five tokens."""
    folder: Path = tmp_path_factory.mktemp("five")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.7,
        eos_token_id=None,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({str(n): n for n in range(VOCAB)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return load_model(folder, name="tiny")


@pytest.fixture(scope="module")
def believed(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """The network's logits after every prefix, by transformers."""
    folder = next(tmp_path_factory.getbasetemp().glob("five*"))
    network = LlamaForCausalLM.from_pretrained(folder).eval()
    known: dict[Tokens, np.ndarray] = {}

    def scores(prefix: Tokens) -> np.ndarray:
        if prefix not in known:
            with torch.inference_mode():
                known[prefix] = network(torch.tensor([prefix])).logits[0, -1].numpy()
        return known[prefix]

    return scores


def written(model: LoadedModel, params: SamplingParams, seeds: int) -> Iterator[Tokens]:
    """Three tokens of each seed, decoded dozens at a time with random trees."""
    config = EngineConfig(max_running=48, max_waiting=seeds, page_size=2, pages=500)
    engine = Engine({"tiny": model}, config, extra_sources=adversaries(VOCAB))
    sources = frozenset({"adversary_random", "adversary_wide"})
    guess = Speculation(mode="fixed", sources=sources, max_nodes=5)
    for seed in range(seeds):
        fields = {name: getattr(params, name) for name in params.__slots__}
        engine.submit(
            GenerationRequest(
                request_id=str(seed),
                model="tiny",
                prompt=PROMPT,
                sampling=SamplingParams(**{**fields, "seed": seed}),
                stops=StopRules(max_tokens=LENGTH, ignore_eos=True),
                speculation=guess,
            )
        )
    found: dict[str, Tokens] = {}
    while engine.has_work():
        for output in engine.step():
            found[output.request_id] = found.get(output.request_id, ()) + output.tokens
    assert engine.stats().models["tiny"].accepted > seeds // 4
    yield from found.values()


FEW = 5_000


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "everything" else pytest.mark.full) for name in CASES],
)
def test_the_engine_writes_three_tokens_as_enumeration_says(
    tiny: LoadedModel, believed: Scores, name: str
) -> None:
    found = written(tiny, CASES[name], FEW)
    assert deviation(found, enumerated(CASES[name], believed), FEW) < 4.0


@pytest.mark.full
@pytest.mark.parametrize("name", ["plain", "everything"])
def test_the_engine_writes_so_over_fifty_thousand_seeds(
    tiny: LoadedModel, believed: Scores, name: str
) -> None:
    found = written(tiny, CASES[name], SEEDS)
    assert deviation(found, enumerated(CASES[name], believed), SEEDS) < 4.0


def test_the_engine_with_a_biased_rule_fails_the_same_test(
    tiny: LoadedModel, believed: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChoiceSampler, "position", StaleSampler.position)
    found = written(tiny, CASES["plain"], FEW // 2)
    assert deviation(found, enumerated(CASES["plain"], believed), FEW // 2) > 8.0
