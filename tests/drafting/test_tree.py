"""A draft tree is stored parent before child, or not at all."""

from __future__ import annotations

import pytest

from drafting.errors import DraftingError, InvalidTree
from drafting.tree import EMPTY, ROOT, DraftTree

HERE = frozenset({"here"})


def test_a_parent_after_its_child_is_refused():
    with pytest.raises(InvalidTree, match="node 0 has parent 1"):
        DraftTree((1, 2), (1, ROOT), (HERE, HERE))


def test_a_node_cannot_be_its_own_parent():
    with pytest.raises(InvalidTree, match="node 1 has parent 1"):
        DraftTree((1, 2), (ROOT, 1), (HERE, HERE))


def test_siblings_carry_distinct_tokens():
    with pytest.raises(InvalidTree, match="same token"):
        DraftTree((7, 7), (ROOT, ROOT), (HERE, HERE))


def test_cousins_may_carry_the_same_token():
    assert len(DraftTree((7, 7), (ROOT, 0), (HERE, HERE))) == 2


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(InvalidTree, match="2 tokens, 1 parents and 2 sources"):
        DraftTree((1, 2), (ROOT,), (HERE, HERE))


def test_confidence_is_for_every_node_or_none():
    with pytest.raises(InvalidTree, match="1 confidences"):
        DraftTree((1, 2), (ROOT, 0), (HERE, HERE), (0.5,))


def test_an_invalid_tree_is_an_error_of_this_package():
    assert issubclass(InvalidTree, DraftingError)


def test_depth_counts_from_the_context_and_not_by_index():
    assert DraftTree((1, 2, 3, 4), (ROOT, ROOT, 0, 2), (HERE,) * 4).depths() == (1, 1, 2, 3)
    assert EMPTY.depths() == ()
