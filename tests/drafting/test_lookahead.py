"""The target's guesses where its text did not go serve where it comes by again."""

from __future__ import annotations

from drafting.lookahead import Lookahead
from drafting.merge import chain, path_probs
from drafting.source import DraftRequest
from drafting.tree import EMPTY


def watched(context, tree, guesses):
    session = Lookahead().open(DraftRequest(prompt=tuple(context)))
    session.propose(context, max_nodes=8)
    session.watch(tree, guesses)
    return session


def test_a_guess_behind_a_rejected_node_is_proposed_where_the_text_comes_by():
    session = watched([1, 2], chain([3, 4], [0.5] * 2, "x"), [9, 4, 5])  # 9 was said, not 3
    assert session.propose([1, 2, 9, 7, 3, 4], max_nodes=1).tokens == (5,)
    tree = session.propose([1, 2, 9, 7, 2, 3], max_nodes=8)
    assert tree.tokens[:2] == (4, 5)


def test_the_next_iterate_is_what_was_guessed_beside_the_token_that_was_said():
    session = watched([1, 2], chain([3, 4, 5], [0.5] * 3, "x"), [9, 41, 51, 61])
    assert session.propose([1, 2, 9], max_nodes=8).tokens == (41, 51, 61)


def test_an_iteration_begins_with_any_tokens_at_little_confidence():
    tree = watched([1, 2], EMPTY, [3]).propose([1, 2, 3], max_nodes=8)
    assert tree.tokens == (1, 2)
    assert max(tree.confidence) <= 0.1
    accepted = watched([1, 2], chain([8], [0.5], "x"), [8, 4])
    assert accepted.propose([1, 2, 8, 4], max_nodes=8).tokens == (1, 2, 8)


def test_known_ngrams_are_surer_than_the_iterate():
    session = watched([1, 2], chain([3, 4], [0.5] * 2, "x"), [9, 4, 5])
    tree = session.propose([1, 2, 9, 2, 3], max_nodes=8)
    probs = dict(zip(tree.tokens, path_probs(tree), strict=True))
    assert probs[4] >= 0.5
