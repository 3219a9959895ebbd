"""What followed the same words before is proposed again."""

from __future__ import annotations

import pytest

from drafting.merge import path_probs
from drafting.source import DraftRequest
from drafting.suffix_lookup import PromptLookup, match_confidence
from drafting.tree import ROOT


def proposed(context, max_nodes=8):
    session = PromptLookup().open(DraftRequest(prompt=tuple(context)))
    return session.propose(context, max_nodes=max_nodes)


def chains(tree):
    """Every path of the tree that ends in a leaf."""
    paths = {ROOT: ()}
    for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
        paths[node] = (*paths[parent], token)
    return {path for node, path in paths.items() if node not in tree.parents and node != ROOT}


def test_a_repeated_phrase_is_continued():
    tree = proposed([1, 2, 3, 4, 5, 6, 9, 1, 2, 3], max_nodes=3)
    assert chains(tree) == {(4, 5, 6)}


def test_a_text_without_repeats_gives_no_guess():
    assert len(proposed([1, 2, 3, 4])) == 0


def test_a_single_token_that_occurred_before_is_no_repeat():
    assert len(proposed([1, 2, 3, 4, 2])) == 0


def test_a_period_goes_on_beyond_the_end_of_the_text():
    tree = proposed([7, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3], max_nodes=5)
    assert (1, 2, 3, 1, 2) in chains(tree)


def test_the_latest_continuation_comes_first():
    tree = proposed([5, 5, 1, 8, 0, 5, 5, 1, 9, 0, 3, 5, 5, 1])
    assert tree.tokens[0] == 9


def test_other_continuations_become_branches():
    tree = proposed([5, 6, 1, 8, 0, 5, 6, 1, 9, 0, 3, 5, 6, 1])
    roots = {token for token, p in zip(tree.tokens, tree.parents, strict=True) if p == ROOT}
    assert roots == {8, 9}


def test_a_usual_continuation_is_surer_than_a_rare_one():
    usual, rare = [5, 6, 1, 8, 0], [5, 6, 1, 9, 2]
    tree = proposed([*rare, *usual, *usual, *usual, 3, 5, 6, 1])
    sure = {
        t: c for t, p, c in zip(tree.tokens, tree.parents, tree.confidence, strict=True) if p < 0
    }
    assert sure[8] > sure[9]


def test_confidence_grows_with_the_length_of_the_match():
    assert [match_confidence(n) for n in range(5)] == sorted(match_confidence(n) for n in range(5))
    short = proposed([1, 2, 3, 8, 9, 2, 3], max_nodes=1)
    long = proposed([1, 2, 3, 4, 8, 9, 1, 2, 3, 4], max_nodes=1)
    assert long.confidence[0] > short.confidence[0]


def test_hopeless_tails_are_left_out():
    tree = proposed([1, 2, 3, *range(10, 60), 2, 3], max_nodes=50)
    assert 0 < len(tree) < 20
    assert min(path_probs(tree)) >= 0.02


def test_output_is_looked_up_as_the_prompt_is():
    session = PromptLookup().open(DraftRequest(prompt=(1, 2)))
    context = [1, 2]
    assert len(session.propose(context, max_nodes=4)) == 0
    context += [6, 7, 8, 9, 6, 7]
    assert session.propose(context, max_nodes=2).tokens == (8, 9)


@pytest.mark.parametrize("pieces", [[3, 5, 9], [17], list(range(1, 17))])
def test_how_often_it_is_asked_does_not_change_what_it_says(pieces):
    text = [1, 2, 3, 1, 2, 4, 1, 2, 3, 1, 2, 3, 4, 4, 1, 2, 3]
    session = PromptLookup().open(DraftRequest(prompt=()))
    for end in pieces:
        session.propose(text[:end], max_nodes=4)
    assert session.propose(text, max_nodes=8) == proposed(text)


def test_a_long_text_is_taken_in_over_several_steps():
    text = [*range(1000, 2700), 1, 2, 3, 4, *range(3000, 3300), 1, 2, 3]
    session = PromptLookup().open(DraftRequest(prompt=tuple(text)))
    found = [session.propose(text, max_nodes=4).tokens[:1] for _ in range(5)]
    assert found == [(), (), (), (4,), (4,)]
