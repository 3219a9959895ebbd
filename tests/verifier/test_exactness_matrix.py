"""Every source, tree, batch, processor and temperature: token for token the plain loop's text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import MistralConfig, Qwen2Config, Qwen3Config

import kernels.tree_attention
import verifier.cache
import verifier.intake
import verifier.rows
from verifier.acceptance import ChoiceSampler
from verifier.certificate_bench import Bench, leaks
from verifier.certificate_cases import MIXES, Cell, Mix
from verifier.certificate_results import CellResult, CertificateOptions
from verifier.loading import LoadedModel, load_model
from verifier.processors import Processors

FAMILY = [
    (MistralConfig, {"sliding_window": 9}),
    (Qwen2Config, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    (Qwen3Config, {"head_dim": 16}),
]
QUICK: list[tuple[Mix, int]] = [
    ("together", 5),
    ("together", 32),
    ("staggered", 1),
    ("alone", 32),
    ("tight", 5),
]
ALL = list(itertools.product(MIXES, (1, 5, 32)))
Run = Callable[[Cell], CellResult]


@pytest.fixture(scope="module")
def bench(llama: LoadedModel, drafter: LoadedModel) -> Bench:
    """27 requests: every processor set at every temperature, over eight kinds of prompts."""
    return Bench(llama, drafter, "float32", CertificateOptions(tokens=16))


@pytest.fixture(scope="module")
def large_bench(llama: LoadedModel, drafter: LoadedModel) -> Bench:
    """The same with two prompts for each of them, and longer texts."""
    return Bench(llama, drafter, "float32", CertificateOptions(requests=54, tokens=32))


def check(bench: Bench, cells: Sequence[Cell]) -> list[CellResult]:
    """Run ``cells``; a difference must be explained by a narrow decision, and is rare."""
    results = [bench.cell(cell) for cell in cells]
    wrong = [one for cell in results for one in cell.differences if not one.explained]
    assert not wrong, "\n".join(map(str, wrong[:10]))
    narrow = sum(len(cell.differences) for cell in results)
    assert narrow <= sum(cell.requests for cell in results) // 50
    assert max(cell.deviation for cell in results) < 1e-4
    for name, engine in bench.engines.items():
        assert not leaks(name, engine)
    return results


def by_source(bench: Bench, mix: Mix, max_nodes: int) -> list[Cell]:
    """Every source alone, all of them together, and what the planner makes of them."""
    sets = [None, *(frozenset((name,)) for name in bench.sources)]
    return [
        *(Cell(names, max_nodes, mix) for names in sets),
        Cell(None, max_nodes, mix, "auto"),
    ]


@pytest.mark.parametrize(("mix", "max_nodes"), QUICK)
def test_every_source_gives_the_tokens_of_the_plain_loop(
    bench: Bench, mix: Mix, max_nodes: int
) -> None:
    cells = by_source(bench, mix, max_nodes)
    if mix != "together":  # the full suite has all of them
        cells = [cell for at, cell in enumerate(cells) if cell.sources is None or at % 2]
    results = check(bench, cells)
    drafted = {one.cell.sources for one in results if one.drafted and one.cell.mode == "fixed"}
    assert None in drafted and len(drafted) >= len(cells) // 2
    stats = bench.engines["tight"].stats().models["llama"]
    assert mix != "tight" or (stats.preemptions > 0 and stats.prefix_hit_tokens > 0)


@pytest.mark.full
@pytest.mark.parametrize(("mix", "max_nodes"), ALL)
def test_every_source_gives_the_tokens_of_the_plain_loop_for_twice_the_requests(
    large_bench: Bench, mix: Mix, max_nodes: int
) -> None:
    check(large_bench, by_source(large_bench, mix, max_nodes))


def test_sets_of_sources_give_the_tokens_of_the_plain_loop(bench: Bench) -> None:
    """Their trees are merged: what two of them say becomes one node."""
    dice = np.random.default_rng(1)
    sets = [
        frozenset(dice.choice(bench.sources, size=size, replace=False).tolist())
        for size in (2, 2, 3, 3, 5)
    ]
    sets.append(frozenset({"adversary_deep", "adversary_corrupted", "prediction"}))
    check(bench, [Cell(names, 16, "together") for names in sets])


@pytest.mark.full
def test_every_pair_of_sources_gives_the_tokens_of_the_plain_loop(bench: Bench) -> None:
    pairs = itertools.combinations(bench.sources, 2)
    check(bench, [Cell(frozenset(pair), 12, "together") for pair in pairs])


@pytest.mark.parametrize(("config_class", "changes"), FAMILY)
def test_windows_biases_and_head_norms_change_nothing(
    make_model: Any, config_class: type[Any], changes: dict[str, Any]
) -> None:
    model = load_model(make_model(config_class, **changes), name="llama")
    options = CertificateOptions(requests=9, tokens=12)
    bench = Bench(model, None, "float32", options)
    result = bench.run(lambda _: None)
    assert result.held, (result.unexplained, result.leaks)
    assert result.acceptance_lengths()["adversary_bush"] > 4


LADDER = Path("demo/ladder")


@pytest.mark.full
@pytest.mark.skipif(not (LADDER / "river").is_dir(), reason="the ladder is not there")
@pytest.mark.parametrize("name", ["brook", "creek", "river"])
def test_the_shipped_ladder_writes_the_tokens_of_the_plain_loop(name: str) -> None:
    model = load_model(LADDER / name, name="target")
    drafter = load_model(LADDER / "brook", name="draft") if name != "brook" else None
    bench = Bench(model, drafter, "float32", CertificateOptions())
    result = bench.run(lambda _: None)
    assert result.held, (result.unexplained, result.leaks)
    assert len(result.differences) <= result.compared // 50


# --- The matrix notices ... ----------------------------------------------------------------------

TELLING = [
    Cell(frozenset({"adversary_bush"}), 32, "together"),
    Cell(frozenset({"adversary_echo"}), 32, "alone"),
    Cell(frozenset({"adversary_corrupted"}), 5, "together"),
]


@pytest.fixture
def faulty(
    llama: LoadedModel, drafter: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Plant one fault after the plain loop has run, then count the differences it makes."""
    bench = Bench(llama, None, "float32", CertificateOptions(tokens=16))
    assert not any(bench.cell(cell).differences for cell in TELLING[:1])

    def unexplained(place: object, name: str, fault: object) -> int:
        monkeypatch.setattr(place, name, fault)
        results = [bench.cell(cell) for cell in TELLING]
        return sum(not one.explained for cell in results for one in cell.differences)

    return unexplained


def test_the_matrix_notices_positions_that_count_rows_instead_of_depth(
    faulty: Callable[..., int],
) -> None:
    assert faulty(verifier.rows, "depths", lambda parents: np.arange(len(parents))) > 9


def test_the_matrix_notices_nodes_that_see_their_cousins(faulty: Callable[..., int]) -> None:
    everything = np.tri
    assert faulty(kernels.tree_attention, "ancestors", lambda p: everything(len(p), dtype=bool)) > 9


def test_the_matrix_notices_rows_committed_from_the_wrong_place(
    faulty: Callable[..., int],
) -> None:
    right = verifier.cache.commit_rows

    def chains_only(kv: Any, accepted: Any) -> None:
        right(kv, [one._replace(rows=range(len(one.rows))) for one in accepted])

    assert faulty(verifier.cache, "commit_rows", chains_only) > 9


def test_the_matrix_notices_a_bonus_token_read_from_its_parents_row(
    faulty: Callable[..., int],
) -> None:
    right = ChoiceSampler.verify

    def stale(self: Any, tree: Any, logits: Any, **known: Any) -> Any:
        verdict = right(self, tree, logits, **known)
        if not verdict.path:
            return verdict
        return verdict._replace(
            tokens=(*verdict.tokens[:-1], self.decide(logits[verdict.rows[-2]]).token)
        )

    assert faulty(ChoiceSampler, "verify", stale) > 9


def test_the_matrix_notices_penalties_that_do_not_follow_the_branch(
    faulty: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ChoiceSampler.verify
    count = Processors.push, Processors.pop
    verifying: list[bool] = []

    def blind(self: Any, tree: Any, logits: Any, **known: Any) -> Any:
        verifying.append(True)
        try:
            return right(self, tree, logits, **known)
        finally:
            verifying.pop()

    def push(self: Any, token: int) -> None:
        if verifying:
            self._branch.append(token)
        else:
            count[0](self, token)

    def pop(self: Any) -> None:
        if verifying:
            self._branch.pop()
        else:
            count[1](self)

    monkeypatch.setattr(Processors, "push", push)
    monkeypatch.setattr(Processors, "pop", pop)
    assert faulty(ChoiceSampler, "verify", blind) > 3
