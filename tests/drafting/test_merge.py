"""Merging folds duplicates, forgets no proposer and keeps the budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drafting.merge import chain, likeliest, merge, path_probs, subtree
from drafting.tree import EMPTY, ROOT, DraftTree


@st.composite
def draft_trees(draw):
    """Any valid tree, with or without confidences, from one of three sources."""
    edges: dict[tuple[int, int], None] = {}
    for _ in range(draw(st.integers(0, 8))):
        parent = draw(st.integers(ROOT, len(edges) - 1))
        edges[parent, draw(st.integers(0, 3))] = None
    size = len(edges)
    claims = draw(
        st.one_of(
            st.just(()),
            st.lists(st.floats(0.01, 1), min_size=size, max_size=size).map(tuple),
        )
    )
    name = draw(st.sampled_from("abc"))
    return DraftTree(
        tuple(token for _, token in edges),
        tuple(parent for parent, _ in edges),
        (frozenset({name}),) * size,
        claims,
    )


def paths(tree: DraftTree) -> dict[tuple[int, ...], frozenset[str]]:
    found: dict[int, tuple[int, ...]] = {ROOT: ()}
    for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
        found[node] = (*found[parent], token)
    return {found[node]: names for node, names in enumerate(tree.sources)}


many = st.lists(draft_trees(), max_size=5)


@given(many, st.integers(0, 40))
def test_every_path_comes_from_an_input_with_all_who_proposed_it(trees, budget):
    merged = merge(trees, max_nodes=budget)
    assert len(merged) <= budget
    proposed: dict[tuple[int, ...], frozenset[str]] = {}
    for tree in trees:
        for path, names in paths(tree).items():
            proposed[path] = proposed.get(path, frozenset()) | names
    for path, names in paths(merged).items():
        assert names == proposed[path]
    assert len(merged) == min(budget, len(proposed))


@given(many, st.integers(1, 40))
def test_merging_with_itself_changes_nothing(trees, budget):
    merged = merge(trees, max_nodes=budget)
    assert merge([merged, merged], max_nodes=budget) == merge([merged], max_nodes=budget)
    assert paths(merge([merged, merged], max_nodes=budget)) == paths(merged)


@given(many, st.integers(1, 20))
def test_no_dropped_node_was_likelier_than_a_kept_one(trees, budget):
    whole = merge(trees, max_nodes=1000)
    kept = path_probs(merge(trees, max_nodes=budget))
    best = sorted(path_probs(whole), reverse=True)[:budget]
    assert sorted(kept, reverse=True) == best


def test_earlier_trees_win_where_confidence_is_equal():
    first, second = chain([1, 2], [0.5, 0.5], "a"), chain([3, 4], [0.5, 0.5], "b")
    assert merge([first, second], max_nodes=1).tokens == (1,)
    assert merge([second, first], max_nodes=1).tokens == (3,)


def test_the_surer_proposer_speaks_for_a_shared_node():
    merged = merge([chain([1], [0.2], "a"), chain([1], [0.9], "b")], max_nodes=5)
    assert merged == DraftTree((1,), (ROOT,), (frozenset({"a", "b"}),), (0.9,))


def test_a_likely_grandchild_does_not_come_without_its_parent():
    tree = DraftTree((1, 2, 3), (ROOT, 0, ROOT), (frozenset("a"),) * 3, (0.3, 1.0, 0.4))
    assert merge([tree], max_nodes=2).tokens == (1, 3)


def test_nothing_merges_to_nothing():
    assert merge([], max_nodes=5) == EMPTY
    assert merge([EMPTY, EMPTY], max_nodes=5) == EMPTY
    assert merge([chain([1], [0.5], "a")], max_nodes=0) == EMPTY


@given(draft_trees(), st.integers(0, 8))
def test_the_likeliest_nodes_always_include_their_parents(tree, count):
    kept = likeliest(path_probs(tree), count)
    assert all(tree.parents[node] == ROOT or tree.parents[node] in kept for node in kept)
    assert set(paths(subtree(tree, kept))) <= set(paths(tree))
