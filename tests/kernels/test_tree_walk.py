"""The walk on the device against the engine's own rule, token for token."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.kernels.cases import random_tree
from drafting.tree import DraftTree
from kernels.errors import KernelError
from kernels.tree_walk import (
    SHARE,
    DraftRows,
    Drawing,
    Walk,
    _choose_on_device,
    _reference,
    walk_trees,
)
from verifier.acceptance import ChoiceSampler
from verifier.noise import TargetNoise, noise_key
from verifier.processors import Processors
from verifier.request import SamplingParams

DIGEST = bytes(range(32))


def rows_of(
    trees: list[tuple[list[int], list[int]]], positions: list[int], device: torch.device
) -> DraftRows:
    """``trees``: parents and tokens of draft nodes; a first row is put before each."""
    parents, tokens, places, starts = [], [], [], [0]
    for (own, carried), position in zip(trees, positions, strict=True):
        shifted = [-1, *(parent + 1 for parent in own)]
        depth = [0]
        for parent in shifted[1:]:
            depth.append(depth[parent] + 1)
        parents += shifted
        tokens += [0, *carried]
        places += [position + below for below in depth]
        starts.append(len(parents))
    return DraftRows(
        torch.tensor(starts, dtype=torch.int32, device=device),
        torch.tensor(parents, dtype=torch.int32, device=device),
        torch.tensor(tokens, dtype=torch.int32, device=device),
        torch.tensor(places, dtype=torch.int64, device=device),
    )


def drawing_of(seeds: list[int], temperatures: list[float], device: torch.device) -> Drawing:
    keys = [noise_key(seed, 0, DIGEST) for seed in seeds]
    return Drawing(
        torch.tensor(keys, dtype=torch.int64, device=device),
        torch.tensor(temperatures, dtype=torch.float64, device=device),
    )


def distinct_tokens(random: np.random.Generator, parents: list[int]) -> list[int]:
    """A token for every node, siblings distinct, often a likely one."""
    used: set[tuple[int, int]] = set()
    tokens = []
    for parent in parents:
        token = int(random.integers(0, 6))
        while (parent, token) in used:
            token += 1
        used.add((parent, token))
        tokens.append(token)
    return tokens


def walk(logits: torch.Tensor, rows: DraftRows, drawing: Drawing, **options: Any) -> Walk:
    return walk_trees(logits, rows, drawing, **({"widest": 64, "longest": 6} | options))


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 3.0])
def test_it_walks_as_the_engine_does(place: torch.device, temperature: float) -> None:
    random, vocabulary = np.random.default_rng(23), 40
    trees, seeds, logits = [], [1, 2**64 - 1, 77], []
    for size in (0, 5, 30):
        parents = [parent - 1 for parent in random_tree(random, size + 1)[1:]]
        trees.append((parents, distinct_tokens(random, parents)))
        logits.append(random.normal(0, 1.5, (size + 1, vocabulary)).astype(np.float32))
        logits[-1][:, :6] += 3.0 * max(1.0, temperature)
    positions = [0, 500, 2**32 + 3]
    rows = rows_of(trees, positions, place)
    drawing = drawing_of(seeds, [temperature] * 3, place)
    got = walk(torch.from_numpy(np.concatenate(logits)).to(place), rows, drawing, longest=12)
    accepted = 0
    for request, (parents, tokens) in enumerate(trees):
        tree = DraftTree(tuple(tokens), tuple(parents), (frozenset({"test"}),) * len(tokens))
        sampling = SamplingParams(temperature=temperature)
        noise = TargetNoise(seeds[request], 0, DIGEST) if temperature else None
        sampler = ChoiceSampler(
            Processors(sampling, prompt=[], vocab_size=vocabulary),
            noise,
            prompt_tokens=positions[request] + 1,
        )
        verdict = sampler.verify(tree, logits[request])
        count = int(got.counts[request])
        assert tuple(got.tokens[request, :count].tolist()) == verdict.tokens
        assert tuple(got.rows[request, :count].tolist()) == verdict.rows
        scale = temperature if 0 < temperature < 1 else 1.0
        gaps = (got.gaps[request, :count] * scale).tolist()
        exact = [index for index, margin in enumerate(verdict.margins) if margin < scale * 0.99]
        assert [gaps[i] for i in exact] == pytest.approx([verdict.margins[i] for i in exact])
        assert (got.tokens[request, count:] == -1).all()
        assert (got.rows[request, count:] == -1).all()
        accepted += count - 1
    assert accepted > 0


def test_every_bit_of_the_noise_is_the_engines(place: torch.device) -> None:
    """One token survives in each row: its score is its noise."""
    import kernels.backend

    if place.type == "cpu" and not kernels.backend.interpreting():
        pytest.skip("tested by the next one")
    tokens, positions = [0, 1, 2, 1000, 2000], [99, 2**32, 2**40 + 7]
    logits = torch.full((len(tokens), 2001), -torch.inf)
    for row, token in enumerate(tokens):
        logits[row, token] = 0.0
    for position in positions:
        rows = DraftRows(
            torch.tensor([0, len(tokens)], dtype=torch.int32, device=place),
            torch.tensor([-1] + [0] * (len(tokens) - 1), dtype=torch.int32, device=place),
            torch.tensor(tokens, dtype=torch.int32, device=place),
            torch.full((len(tokens),), position, dtype=torch.int64, device=place),
        )
        scores, _ = _choose_on_device(logits.to(place), rows, drawing_of([42], [1.0], place))
        got = scores[0].amax(1).cpu().numpy()
        expected = TargetNoise(42, 0, DIGEST)(position + 1, np.array(tokens))
        assert got.tolist() == (
            expected.tolist()
            if place.type == "cpu"
            else pytest.approx(expected, rel=1e-14, abs=1e-15)
        )


def test_it_agrees_with_plain_arithmetic_over_several_shares(place: torch.device) -> None:
    vocabulary = SHARE + 700
    logits = torch.randn((4, vocabulary), generator=torch.Generator().manual_seed(3)) * 2
    logits[2, ::3] = -torch.inf
    trees: list[tuple[list[int], list[int]]] = [([], [])] * 4
    drawing = drawing_of([5, 6, 7, 8], [1.0, 0.0, 0.5, 2.0], place)
    got = walk(logits.to(place), rows_of(trees, [3, 4, 5, 6], place), drawing)
    for row in range(4):
        key = noise_key(5 + row, 0, DIGEST)
        temperature = float(drawing.temperatures[row])
        token, gap = _reference(logits[row].tolist(), temperature, 4 + row, key)
        assert int(got.tokens[row, 0]) == token
        assert min(1.0, float(got.gaps[row, 0])) == pytest.approx(min(1.0, gap), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_taken_as_they_are(
    place: torch.device, dtype: torch.dtype
) -> None:
    logits = torch.randn((2, 300), generator=torch.Generator().manual_seed(3)).to(dtype)
    drawing = drawing_of([5, 6], [1.0, 0.0], place)
    got = walk(logits.to(place), rows_of([([], [])] * 2, [3, 4], place), drawing)
    exact = walk(logits.float().to(place), rows_of([([], [])] * 2, [3, 4], place), drawing)
    assert all(torch.equal(one, other) for one, other in zip(got, exact, strict=True))


def test_a_tie_goes_to_the_lowest_token(place: torch.device) -> None:
    logits = torch.zeros(2, SHARE + 5)
    logits[0, [70, 1100, SHARE + 1]] = 2.0
    logits[1, [SHARE + 2, SHARE + 4]] = 2.0
    rows, drawing = rows_of([([], [])] * 2, [0, 0], place), drawing_of([1, 2], [0.0] * 2, place)
    got = walk(logits.to(place), rows, drawing)
    assert got.tokens[:, 0].tolist() == [70, SHARE + 2]
    assert got.gaps[:, 0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_without_a_finite_best_score_ends_the_walk(
    place: torch.device, value: float, temperature: float
) -> None:
    chain = ([-1, 0, 1], [3, 3, 3])
    logits = torch.zeros(8, 10)
    logits[:, 3] = 40.0
    tokens = slice(None) if value == -math.inf else 7  # one NaN among them is enough
    logits[2, tokens] = value  # second node of the first request
    logits[4, tokens] = value  # first row of the second
    drawing = drawing_of([1, 2], [temperature] * 2, place)
    got = walk(logits.to(place), rows_of([chain, chain], [5, 5], place), drawing)
    assert got.counts.tolist() == [2, 0]
    assert got.rows[0].tolist() == [0, 1, -1, -1, -1, -1]
    assert got.tokens[0].tolist() == [3, 3, -1, -1, -1, -1]
    assert (got.rows[1] == -1).all() and (got.tokens[1] == -1).all()


def test_a_walk_longer_than_its_room_is_cut_and_right(place: torch.device) -> None:
    logits = torch.zeros(4, 10)
    logits[:, 3] = 40.0
    rows = rows_of([([-1, 0, 1], [3, 3, 3])], [5], place)
    got = walk(logits.to(place), rows, drawing_of([1], [0.0], place), longest=2)
    assert got.rows.tolist() == [[0, 1]] and got.counts.tolist() == [2]


def test_padding_and_neighbours_change_no_bit(place: torch.device) -> None:
    logits = torch.randn((3, 50), generator=torch.Generator().manual_seed(1))
    rows = rows_of([([-1], [4])], [9], place)
    alone = walk(logits[:2].to(place), rows, drawing_of([3], [1.0], place))
    padded = DraftRows(
        torch.tensor([0, 2, 2, 2], dtype=torch.int32, device=place),
        torch.tensor([-1, 0, -1], dtype=torch.int32, device=place),
        torch.tensor([0, 4, 9], dtype=torch.int32, device=place),
        torch.tensor([9, 10, 0], dtype=torch.int64, device=place),
    )
    got = walk(logits.to(place), padded, drawing_of([3, 4, 5], [1.0, 0.0, 0.0], place))
    assert got.counts.tolist() == [int(alone.counts[0]), 0, 0]
    assert all(torch.equal(ours[:1], theirs) for ours, theirs in zip(got, alone, strict=True))


def test_nothing_outside_any_buffer_is_read_or_written(place: torch.device, bands: Any) -> None:
    logits = torch.randn((6, 50), generator=torch.Generator().manual_seed(1)).to(place)
    rows = rows_of([([-1, -1, 0], [4, 5, 6]), ([-1], [1])], [9, 0], place)
    drawing = drawing_of([3, 4], [1.0, 0.0], place)
    expected = walk(logits, rows, drawing)
    out = Walk(*(bands.around(torch.full_like(own, 77)) for own in expected))
    around_rows = DraftRows(*(bands.around(own) for own in rows))
    around_drawing = Drawing(*(bands.around(own) for own in drawing))
    walk(bands.around(logits), around_rows, around_drawing, out=out)
    assert bands.intact()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(out, expected, strict=True))


@pytest.mark.parametrize(
    "bad",
    [
        {"logits": torch.zeros(2, 9, dtype=torch.float64)},
        {"logits": torch.zeros(3, 9)},
        {"logits": torch.zeros(9, 2).t()},
        {"keys": torch.zeros(1, 2, dtype=torch.int32)},
        {"keys": torch.zeros(2, 2, dtype=torch.int64)},
        {"temperatures": torch.zeros(1)},
        {"parents": torch.zeros(2, dtype=torch.int64)},
        {"tokens": torch.zeros(4, dtype=torch.int32)[::2]},
        {"positions": torch.zeros(2, dtype=torch.int64, device="meta")},
        {"widest": 0},
    ],
)
def test_tensors_that_disagree_are_refused(bad: dict[str, Any]) -> None:
    device = torch.device("cpu")
    rows, drawing = rows_of([([-1], [4])], [9], device), drawing_of([3], [1.0], device)
    rows = rows._replace(**{k: v for k, v in bad.items() if k in DraftRows._fields})
    drawing = drawing._replace(**{k: v for k, v in bad.items() if k in Drawing._fields})
    rest = {key: value for key, value in bad.items() if key in ("widest", "longest")}
    with pytest.raises(KernelError, match=r"got .*; expected"):
        walk(bad.get("logits", torch.zeros(2, 9)), rows, drawing, **rest)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"parents": [-1, 1]}, "expected -1 <= parent < 1"),
        ({"starts": [1, 0]}, "expected ascending"),
        ({"widest": 1}, "got a request of 2 rows; expected at most 1"),
        ({"temperatures": [-1.0]}, "got temperature -1.0"),
        ({"temperatures": [math.nan]}, "got temperature nan"),
    ],
)
def test_values_that_make_no_sense_are_refused_when_looked_at(
    place: torch.device, bad: dict[str, Any], message: str
) -> None:
    rows, drawing = rows_of([([-1], [4])], [9], place), drawing_of([3], [1.0], place)
    for name in ("parents", "starts"):
        if name in bad:
            value = torch.tensor(bad[name], dtype=torch.int32, device=place)
            rows = rows._replace(**{name: value})
    if "temperatures" in bad:
        wrong = torch.tensor(bad["temperatures"], dtype=torch.float64, device=place)
        drawing = drawing._replace(temperatures=wrong)
    with pytest.raises(KernelError, match=message):
        walk(torch.zeros(2, 9, device=place), rows, drawing, debug=True,
             widest=bad.get("widest", 4))  # fmt: skip
