"""What other engines got wrong, each as a test; docs/verify.md lists them with those elsewhere."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig

from drafting.mix import Drafting
from drafting.source import DraftRequest, DraftSession, Reference
from drafting.tree import EMPTY, DraftTree
from verifier.certificate_runs import Written, written
from verifier.certificate_sources import TRUTH, adversaries
from verifier.engine import Engine, EngineConfig
from verifier.loading import Dtype, LoadedModel, load_model
from verifier.pages import page_hash, root_hash
from verifier.request import GenerationRequest, SamplingParams, Speculation, StopRules

PROMPT = tuple(range(40, 70))
PAGE = 4
HOT = SamplingParams(temperature=1.2, seed=11)
GREEDY = SamplingParams(temperature=0.0)
OFF = Speculation(mode="off")


def fixed(*shapes: str, nodes: int = 32) -> Speculation:
    names = frozenset(f"adversary_{shape}" for shape in shapes)
    return Speculation(mode="fixed", sources=names, max_nodes=nodes)


def armed(model: LoadedModel, **limits: Any) -> Engine:
    """An engine over ``model`` that every adversary drafts for."""
    config = EngineConfig(page_size=PAGE, **limits)
    return Engine({"llama": model}, config, extra_sources=adversaries(model.vocab_size))


def ask(drive: Any, engine: Engine, **more: Any) -> Written:
    more = {"prompt": PROMPT, "sampling": HOT, "top_logprobs": 0, **more}
    return written(drive.run(engine, drive.request(**more))[0])


def knowing(truth: Written, *shapes: str) -> dict[str, Any]:
    """Fields of a request whose sources know what will come."""
    return {
        "speculation": fixed(*(shapes or ("deep",))),
        "references": (Reference(TRUTH, truth.tokens),),
    }


# --- Ends inside the accepted run ----------------------------------------------------------------


def endings(model: LoadedModel, free: Written) -> dict[str, StopRules]:
    """Rules that end the text amid what is accepted in one step."""
    text = model.decode(free.tokens[:14])
    straddling = text[len(model.decode(free.tokens[:9])) - 1 :][:3]
    return {
        "a stop token": StopRules(max_tokens=30, stop_token_ids=frozenset({free.tokens[9]})),
        "a stop string over two tokens": StopRules(max_tokens=30, stop=(straddling,)),
        "the length": StopRules(max_tokens=9, ignore_eos=True),
        "all of them": StopRules(
            max_tokens=12, stop=(straddling,), stop_token_ids=frozenset({free.tokens[11]})
        ),
        "a least length": StopRules(max_tokens=30, min_tokens=14, stop=(straddling,)),
    }


ENDINGS = [
    "a stop token", "a stop string over two tokens", "the length", "all of them", "a least length",
]  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_end_inside_the_accepted_run_cuts_everything_alike(
    llama: LoadedModel, drive: Any, ending: str
) -> None:
    """Tokens, text, reason, log-probs, usage and what later requests find in the cache."""
    stops = StopRules(max_tokens=30, ignore_eos=True)
    free = ask(drive, armed(llama), speculation=OFF, stops=stops)
    rules = endings(llama, free)[ending]
    engines = [armed(llama), armed(llama)]
    alone = ask(drive, engines[0], speculation=OFF, stops=rules)
    at_once = ask(drive, engines[1], stops=rules, **knowing(free))
    assert at_once.receipt.steps <= 2 < alone.receipt.steps, "the end lay inside one step"
    assert (at_once.tokens, at_once.text) == (alone.tokens, alone.text)
    assert at_once.ending == alone.ending
    assert at_once.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    assert at_once.receipt.output_tokens == alone.receipt.output_tokens == len(alone.tokens)
    follow_up = {"prompt": PROMPT + free.tokens, "speculation": OFF, "tokens": 2}
    hits = [ask(drive, one, **follow_up).receipt.cached_prompt_tokens for one in engines]
    assert hits[0] == hits[1]


def test_the_end_of_sequence_inside_the_accepted_run_ends_the_text(
    make_model: Any, drive: Any
) -> None:
    """The model's own end token, made likely."""
    stops = StopRules(max_tokens=30)
    model = load_model(make_model(LlamaConfig), name="llama")
    free = ask(drive, armed(model), speculation=OFF, stops=replace(stops, ignore_eos=True))
    model = replace(model, eos_token_ids=frozenset({free.tokens[7]}))
    alone = ask(drive, armed(model), speculation=OFF, stops=stops)
    at_once = ask(drive, armed(model), stops=stops, **knowing(free))
    assert alone.ending[0] == "stop" and len(alone.tokens) <= 8
    assert (at_once.tokens, at_once.text, at_once.ending) == (
        alone.tokens, alone.text, alone.ending,
    )  # fmt: skip


# --- What is kept --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["wrong", "bush", "wide", "deep"])
def test_the_prefix_cache_holds_committed_tokens_only(
    llama: LoadedModel, drive: Any, shape: str
) -> None:
    """Every named page is a page of prompt and output, in order; none is of a rejected draft."""
    engine = armed(llama)
    plain = ask(drive, engine, speculation=OFF, cache_salt="plain")
    found = ask(drive, engine, cache_salt="drafted", **knowing(plain, shape))
    whole = [*PROMPT, *found.tokens]
    allowed = set()
    for salt in ("plain", "drafted"):
        name = root_hash(llama.fingerprint, salt)
        for start in range(0, len(whole) - PAGE + 1, PAGE):
            name = page_hash(name, whole[start : start + PAGE])
            allowed.add(name)
    named = set(engine._decoders["llama"].cache.pool._page_of)
    assert named <= allowed
    assert len(named) >= 2 * ((len(whole) - 1) // PAGE - 1)


def test_keys_and_values_of_a_kept_page_are_those_of_a_plain_forward(
    llama: LoadedModel, drive: Any
) -> None:
    """A continuation from pages that drafts have filled scores as one computed afresh."""
    drafted = armed(llama)
    plain = ask(drive, armed(llama), speculation=OFF)
    ask(drive, drafted, **knowing(plain, "bush"))
    follow_up = {"prompt": PROMPT + plain.tokens, "speculation": OFF}
    warm = ask(drive, drafted, **follow_up)
    cold = ask(drive, armed(llama), **follow_up)
    assert warm.receipt.cached_prompt_tokens > len(PROMPT)
    assert warm.tokens == cold.tokens
    assert warm.logprobs == pytest.approx(cold.logprobs, abs=1e-4)


# --- Scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["deep", "bush", "corrupted", "echo"])
def test_logprobs_of_accepted_tokens_equal_a_rescore(
    llama: LoadedModel, llama_path: Path, drive: Any, shape: str
) -> None:
    engine = armed(llama)
    plain = ask(drive, engine, speculation=OFF, cache_salt="plain")
    found = ask(drive, engine, **knowing(plain, shape))
    assert found.receipt.accepted > 0
    reference = AutoModelForCausalLM.from_pretrained(llama_path)
    with torch.inference_mode():
        logits = reference(torch.tensor([[*PROMPT, *found.tokens]])).logits[0]
    scores = logits.log_softmax(-1)[len(PROMPT) - 1 : -1]
    own = scores[torch.arange(len(found.tokens)), torch.tensor(found.tokens)]
    assert found.logprobs == pytest.approx(own.tolist(), abs=1e-4)


BACKENDS: list[tuple[type[Any], Dtype]] = [
    (LlamaConfig, "float32"),
    (LlamaConfig, "bfloat16"),
    (GPTNeoXConfig, "float32"),
    (GPTNeoXConfig, "int8"),
]


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize(("config_class", "dtype"), BACKENDS)
def test_every_backend_answers_to_temperature(
    make_model: Any, drive: Any, config_class: type[Any], dtype: Dtype, speculate: bool
) -> None:
    """None quietly writes greedily: heat brings variety, cold brings none."""
    engine = armed(load_model(make_model(config_class), dtype=dtype, name="llama"))
    guess = fixed("random", nodes=8) if speculate else OFF

    def variety(temperature: float) -> int:
        requests = [
            drive.request(
                PROMPT[:9],
                name=f"{temperature} {seed}",
                tokens=4,
                sampling=SamplingParams(temperature=temperature, seed=seed),
                speculation=guess,
            )
            for seed in range(24)
        ]
        return len({tuple(drive.tokens(outputs)) for outputs in drive.run(engine, *requests)})

    cold, warm, hot = variety(0.0), variety(0.7), variety(3.0)
    assert cold == 1
    assert cold < warm <= hot == 24


def test_a_vanishing_temperature_divides_by_nothing(llama: LoadedModel, drive: Any) -> None:
    engine = armed(llama)
    greedy = ask(drive, engine, sampling=GREEDY, speculation=OFF)
    for temperature in (1e-3, 1e-9, 5e-324):
        cold = SamplingParams(temperature=temperature, seed=3, top_p=0.9, min_p=0.1, top_k=9)
        assert ask(drive, engine, sampling=cold, **knowing(greedy)).tokens == greedy.tokens


def test_tokens_of_a_padded_vocabulary_may_come_out_and_break_nothing(
    make_model: Any, drive: Any
) -> None:
    """Networks are often wider than their tokenizer; such a token has no text."""
    model = load_model(make_model(LlamaConfig, vocab_size=352), name="llama")
    assert model.vocab_size == 352 > len(model.tokenizer)
    engine = armed(model)
    sampling = SamplingParams(temperature=1.0, seed=3, logit_bias={340: 100.0, 345: 99.0})
    plain = ask(drive, engine, sampling=sampling, speculation=OFF)
    found = ask(drive, engine, sampling=sampling, **knowing(plain, "bush"))
    assert {340, 345} & set(plain.tokens)
    assert found.tokens == plain.tokens and found.ending == plain.ending


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_request_that_cannot_be_decided_ends_alone(
    llama: LoadedModel, drive: Any, temperature: float
) -> None:
    """Every token is an end, and none may come yet: that is nobody else's affair."""
    engine = armed(llama)
    alone = ask(drive, engine, name="alone")
    banned = frozenset(range(llama.vocab_size))
    stops = StopRules(max_tokens=9, min_tokens=5, stop_token_ids=banned)
    bad = drive.request(PROMPT, sampling=replace(HOT, temperature=temperature), stops=stops)
    good = drive.request(PROMPT, name="good", sampling=HOT)
    failed, fine = drive.run(engine, bad, good)
    assert failed[-1].error and "expected" in failed[-1].error
    assert tuple(drive.tokens(fine)) == alone.tokens
    assert engine.stats().models["llama"].pages_used == 0


# --- Random numbers ------------------------------------------------------------------------------


def test_a_seed_means_the_same_in_every_request_and_at_every_place_in_a_batch(
    llama: LoadedModel, drive: Any
) -> None:
    """Noise is keyed by seed and position, not by request, step, batch or draft."""
    alone = drive.tokens(drive.run(armed(llama), drive.request(PROMPT, sampling=HOT))[0])
    engine = armed(llama)
    seeds = [11, 12, 11, 13, 11]
    requests: list[GenerationRequest] = [
        drive.request(
            PROMPT,
            name=str(at),
            sampling=replace(HOT, seed=seed),
            speculation=[OFF, fixed("bush"), fixed("random"), Speculation(), fixed("wide")][at],
        )
        for at, seed in enumerate(seeds)
    ]
    texts = [drive.tokens(outputs) for outputs in drive.run(engine, *requests)]
    assert [text == alone for text in texts] == [seed == 11 for seed in seeds]
    assert len({tuple(text) for text in texts}) == 3


def test_two_models_draw_differently_from_one_seed(llama: LoadedModel, drive: Any) -> None:
    """Else a larger model would repeat the very draw by which the smaller one failed."""
    twin = replace(llama, weights_digest=b"other weights")
    texts = [
        drive.tokens(drive.run(armed(model), drive.request(PROMPT, sampling=HOT))[0])
        for model in (llama, twin)
    ]
    assert texts[0] != texts[1]


# --- Load ----------------------------------------------------------------------------------------


class Counting:
    """A source that counts how often it is asked, and never knows anything."""

    name = "counting"

    def __init__(self) -> None:
        self.asked = self.opened = 0

    def open(self, request: DraftRequest) -> DraftSession:
        self.opened += 1
        return self

    def propose(self, context: Any, *, max_nodes: int) -> DraftTree:
        self.asked += 1
        return EMPTY

    def close(self) -> None:
        pass


def test_no_source_is_asked_where_nothing_would_be_drafted(llama: LoadedModel, drive: Any) -> None:
    """Off, no nodes, or one token left: drafting costs nothing at all."""
    source = Counting()
    engine = Engine({"llama": llama}, EngineConfig(), extra_sources=[source])
    none = Speculation(mode="fixed", max_nodes=0)
    drive.run(engine, drive.request(PROMPT, speculation=OFF))
    drive.run(engine, drive.request(PROMPT, speculation=none))
    drive.run(engine, drive.request(PROMPT, tokens=1, speculation=Speculation(mode="fixed")))
    assert (source.asked, source.opened) == (0, 0)
    drive.run(engine, drive.request(PROMPT, speculation=Speculation(mode="fixed")))
    assert source.asked > 0 and source.opened == 1


@dataclass
class Faulty:
    """A source that breaks where it is told to, for texts that begin with a prompt."""

    at: str
    prompt: tuple[int, ...]
    name: str = "faulty"

    def open(self, request: DraftRequest) -> DraftSession:
        self.break_at("open", request.prompt)
        return FaultySession(self)

    def break_at(self, at: str, text: Any) -> None:
        if at == self.at and self.concerns(text):
            raise RuntimeError(f"broken at {at}")

    def concerns(self, text: Any) -> bool:
        return tuple(text[: len(self.prompt)]) == self.prompt


@dataclass
class FaultySession:
    source: Faulty

    def propose(self, context: Any, *, max_nodes: int) -> DraftTree:
        self.source.break_at("propose", context)
        unknown = self.source.at == "token" and self.source.concerns(context)
        return DraftTree((9_999 if unknown else 5,), (-1,), (frozenset({self.source.name}),))

    def close(self) -> None:
        if self.source.at == "close":
            raise RuntimeError("broken at close")


@pytest.mark.parametrize("at", ["open", "propose", "close", "token"])
def test_a_source_that_fails_ends_nobodys_request(llama: LoadedModel, drive: Any, at: str) -> None:
    """Drafts are guesses; neither who asked for them nor a neighbour needs them."""
    sampled = {"sampling": HOT, "speculation": Speculation(mode="fixed")}
    prompts = [PROMPT, PROMPT[3:], PROMPT[5:]]
    plain = [ask(drive, drive.engine(llama), prompt=one, speculation=OFF) for one in prompts]
    engine = Engine({"llama": llama}, EngineConfig(), extra_sources=[Faulty(at, PROMPT)])
    requests = [drive.request(one, name=str(place), **sampled) for place, one in enumerate(prompts)]
    found = drive.run(engine, *requests)
    assert [tuple(drive.tokens(one)) for one in found] == [one.tokens for one in plain]
    assert all(one[-1].finish_reason == "length" for one in found)
    stats = engine.stats().models["llama"]
    assert sum(stats.draft_failures.values()) > 0
    assert stats.pages_used == 0


@pytest.mark.parametrize("call", ["propose", "credit"])
def test_drafting_that_fails_for_one_request_leaves_the_others_their_drafts(
    llama: LoadedModel, drive: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whatever breaks around the sources, only the request it broke for goes without."""
    engine = armed(llama)
    prompts = (PROMPT, PROMPT[3:])
    truth = [ask(drive, engine, prompt=one, speculation=OFF) for one in prompts]
    work = getattr(Drafting, call)

    def broken(self: Drafting, first: Any, *more: Any, **named: Any) -> Any:
        sessions = [one.session for one in first] if call == "propose" else [first]
        if any(one.emitted(PROMPT) == 0 for one in sessions):
            raise RuntimeError("broken")
        return work(self, first, *more, **named)

    monkeypatch.setattr(Drafting, call, broken)
    requests = [
        drive.request(prompts[place], name=str(place), sampling=HOT, **told)
        for place, told in enumerate(
            {**knowing(one), "speculation": fixed("deep", nodes=3)} for one in truth
        )
    ]
    found = drive.run(engine, *requests)
    assert [tuple(drive.tokens(one)) for one in found] == [one.tokens for one in truth]
    bad, good = (one[-1].receipt for one in found)
    assert bad.steps > good.steps and good.accepted > bad.accepted
    assert engine.stats().models["llama"].draft_failures[call] >= 1


# --- Counting ------------------------------------------------------------------------------------


def test_steps_and_tokens_are_counted_apart(llama: LoadedModel, drive: Any) -> None:
    """One step may give many tokens; rates are of tokens, and acceptance of what was drafted."""
    engine = armed(llama)
    plain = ask(drive, engine, speculation=OFF, cache_salt="plain")
    before = engine.stats().models["llama"]
    outputs = drive.run(engine, drive.request(PROMPT, sampling=HOT, **knowing(plain)))[0]
    after = engine.stats().models["llama"]
    receipt = outputs[-1].receipt
    emitting = [output for output in outputs if output.tokens]
    assert len(emitting) == receipt.steps < receipt.output_tokens == len(plain.tokens)
    assert after.output_tokens - before.output_tokens == len(plain.tokens)
    assert 0 < after.drafts - before.drafts <= receipt.steps
    assert receipt.accepted <= receipt.drafted
    positions = np.array(after.accepted_by_position)
    assert positions.sum() == after.accepted and (np.diff(positions) <= 0).all()


# --- The list ------------------------------------------------------------------------------------

ROOT_FOLDER = Path(__file__).resolve().parents[2]


def test_every_test_that_the_list_names_exists() -> None:
    """docs/verify.md names a test for each pitfall; a renamed one must be renamed there too."""
    page = (ROOT_FOLDER / "docs" / "verify.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page.partition("## Pitfalls")[2]))
    found = {
        node.name
        for file in (ROOT_FOLDER / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(named) > 35
    assert named <= found, sorted(named - found)
