"""Ancestors and depths against their definitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.errors import KernelError
from kernels.tree_words import ancestor_words, ancestors, chain_length, check_parents, depths


@st.composite
def parent_arrays(draw: st.DrawFn, max_size: int = 90) -> list[int]:
    size = draw(st.integers(0, max_size))
    chain = draw(st.integers(0, size))
    rest = [draw(st.integers(-1, index - 1)) for index in range(chain, size)]
    return [*range(-1, chain - 1), *rest]


def path_to(parents: list[int], row: int) -> list[int]:
    path = [row]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    return path


@given(parent_arrays())
def test_a_row_sees_exactly_the_path_that_leads_to_it(parents: list[int]) -> None:
    seen = ancestors(parents)
    for row in range(len(parents)):
        assert sorted(path_to(parents, row)) == seen[row].nonzero()[0].tolist()


@given(parent_arrays())
def test_depth_is_the_length_of_that_path(parents: list[int]) -> None:
    assert depths(parents).tolist() == [len(path_to(parents, r)) - 1 for r in range(len(parents))]


@given(parent_arrays())
def test_words_hold_the_same_bits(parents: list[int]) -> None:
    words, seen = ancestor_words(parents), ancestors(parents)
    for row in range(len(parents)):
        for column in range(len(parents)):
            word = int(words[row, column // 64]) & (2**64 - 1)
            assert bool(word >> (column % 64) & 1) == bool(seen[row, column])


def test_words_take_one_column_for_each_64_rows() -> None:
    assert ancestor_words([*range(-1, 64)]).shape == (65, 2)


def test_a_chain_is_recognised_up_to_its_first_fork() -> None:
    assert chain_length([-1, 0, 1, 1, 3]) == 3
    assert chain_length([]) == 0


@pytest.mark.parametrize("parents", [[0], [-1, 1], [-2], [-1, 0, 5]])
def test_a_parent_after_its_child_is_refused(parents: list[int]) -> None:
    with pytest.raises(KernelError, match="expected -1 <= parent"):
        check_parents(parents)
