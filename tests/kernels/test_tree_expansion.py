"""Words, depths and positions of many trees against following their parents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.kernels.cases import random_tree
from kernels.errors import KernelError
from kernels.tree_expansion import Expansion, _reference, expand_trees

RANDOM = np.random.default_rng(11)


def inputs(trees: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    sizes = [len(tree) for tree in trees]
    parents = [parent for tree in trees for parent in tree]
    starts = [0, *np.cumsum(sizes).tolist()]
    contexts = [1000 * request + 7 for request in range(len(trees))]
    given = (torch.tensor(values, dtype=torch.int32) for values in (parents, starts, contexts))
    first, second, third = (tensor.to(device) for tensor in given)
    return first, second, third


@pytest.mark.parametrize("words", [1, 2, 3, 4])
def test_it_agrees_with_following_parents(place: torch.device, words: int) -> None:
    random = np.random.default_rng(words)
    trees = [[-1], [], random_tree(random, 40), [-1, -1, 0, 1], random_tree(random, 64, chain=9)]
    trees += [random_tree(random, 64 * words), list(range(-1, 64 * words - 1))]
    parents, starts, contexts = inputs(trees, place)
    got = expand_trees(parents, starts, contexts, words=words)
    expected = _reference(parents.cpu(), starts.cpu(), contexts.cpu(), words)
    for name in Expansion._fields:
        assert torch.equal(getattr(got, name).cpu(), getattr(expected, name)), name


def test_a_long_prompt_needs_no_words(place: torch.device) -> None:
    parents, starts, contexts = inputs([list(range(-1, 199)), [-1, 0, 0]], place)
    got = expand_trees(parents, starts, contexts, words=1)
    assert got.depths.tolist() == [*range(200), 0, 1, 1]
    assert got.positions[:200].tolist() == [int(contexts[0]) + depth for depth in range(200)]
    assert got.words[:, 0].tolist() == [0] * 200 + [0b1, 0b11, 0b101]


def test_rows_of_nobody_are_left_alone(place: torch.device) -> None:
    parents, starts, contexts = inputs([random_tree(np.random.default_rng(1), 9), []], place)
    parents = torch.cat([parents, torch.full((4,), -1, dtype=torch.int32, device=place)])
    out = Expansion(
        torch.full((13, 2), 77, device=place),
        torch.full((13,), 77, dtype=torch.int32, device=place),
        torch.full((13,), 77, device=place),
    )
    expand_trees(parents, starts, contexts, words=2, out=out)
    assert all((tensor[9:] == 77).all() for tensor in out)
    assert not any((tensor[:9] == 77).any() for tensor in out)


def test_nothing_outside_any_buffer_is_read_or_written(place: torch.device, bands: Any) -> None:
    given = inputs([random_tree(np.random.default_rng(1), 70), [], list(range(-1, 299))], place)
    expected = expand_trees(*given, words=3)
    out = Expansion(*(bands.around(torch.full_like(own, 77)) for own in expected))
    expand_trees(*(bands.around(own) for own in given), words=3, out=out)
    assert bands.intact()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(out, expected, strict=True))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"parents": [-1, 1]}, "expected -1 <= parent < 1"),
        ({"parents": [0, -1]}, "expected -1 <= parent < 0"),
        ({"starts": [0, 3]}, "expected ascending, from 0 to 2"),
        ({"parents": [-1, *[0] * 64], "starts": [0, 65]}, "expected at most 64 rows"),
    ],
)
def test_values_that_make_no_sense_are_refused_when_looked_at(
    place: torch.device, bad: dict[str, Any], message: str
) -> None:
    given = {"parents": [-1, 0], "starts": [0, 2], "contexts": [5]} | bad
    tensors = {
        name: torch.tensor(values, dtype=torch.int32, device=place)
        for name, values in given.items()
    }
    with pytest.raises(KernelError, match=message):
        expand_trees(**tensors, words=1, debug=True)


@pytest.mark.parametrize(
    "bad",
    [
        {"parents": torch.zeros(2, dtype=torch.int64)},
        {"starts": torch.zeros(3, dtype=torch.int32)},
        {"contexts": torch.zeros(1, dtype=torch.int32, device="meta")},
        {"parents": torch.zeros(4, dtype=torch.int32)[::2]},
        {"words": 5},
    ],
)
def test_tensors_that_disagree_are_refused(bad: dict[str, Any]) -> None:
    parents, starts, contexts = inputs([[-1, 0]], torch.device("cpu"))
    given = {"parents": parents, "starts": starts, "contexts": contexts, "words": 1} | bad
    with pytest.raises(KernelError, match=r"got .*; expected"):
        expand_trees(**given)
