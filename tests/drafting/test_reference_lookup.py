"""A reference is followed from its start and found again after a detour."""

from __future__ import annotations

import pytest

from drafting.reference_lookup import ReferenceLookup, ReferenceTracker, _index, _indexes
from drafting.source import DraftRequest, Reference

TEXT = tuple(range(100, 140))


def opened(kind="prediction", text=TEXT, prompt=(1, 2, 3)):
    request = DraftRequest(prompt=prompt, references=(Reference(kind, text),))
    return ReferenceLookup(kind).open(request), list(prompt)


def main_path(tree):
    """The surest way through the tree."""
    node, path = -1, []
    while True:
        below = [i for i, parent in enumerate(tree.parents) if parent == node]
        if not below:
            return tuple(path)
        node = max(below, key=lambda child: tree.confidence[child])
        path.append(tree.tokens[node])


@pytest.mark.parametrize("kind", ["prediction", "rejected_answer", "near_hit"])
def test_it_begins_at_the_start_of_the_output(kind):
    session, context = opened(kind)
    tree = session.propose(context, max_nodes=5)
    assert tree.tokens == TEXT[:5]
    assert set(tree.sources) == {frozenset({kind})}


def test_a_recent_answer_waits_for_words_they_share():
    session, context = opened("recent_answer")
    assert len(session.propose(context, max_nodes=5)) == 0
    assert session.propose([*context, 110, 111], max_nodes=3).tokens == TEXT[12:15]


def test_it_follows_the_output_however_many_tokens_a_step_brings():
    session, context = opened()
    for end in (1, 2, 7, 20):
        tree = session.propose([*context, *TEXT[:end]], max_nodes=4)
        assert tree.tokens == TEXT[end : end + 4]


def test_confidence_grows_while_it_is_right():
    session, context = opened()
    before = session.propose(context, max_nodes=1).confidence[0]
    assert session.propose([*context, *TEXT[:10]], max_nodes=1).confidence[0] > before


@pytest.mark.parametrize(
    ("detour", "place"),
    [((7,), 21), ((7,), 20), ((7, 8), 21), ((7, 8, 9), 22)],
    ids=["replaced", "put in", "one by two", "two by three"],
)
def test_it_goes_on_at_once_after_a_small_change(detour, place):
    session, context = opened()
    output = [*TEXT[:20], *detour]
    session.propose([*context, *TEXT[:20]], max_nodes=16)
    tree = session.propose([*context, *output], max_nodes=16)
    roots = {t for t, parent in zip(tree.tokens, tree.parents, strict=True) if parent == -1}
    assert TEXT[place] in roots


def test_it_finds_its_place_again_after_a_long_detour():
    session, context = opened()
    output = [*TEXT[:10], *range(50, 80), *TEXT[25:27]]
    tree = session.propose([*context, *output], max_nodes=4)
    assert main_path(tree) == TEXT[27:31]


def test_it_finds_its_place_again_after_a_cut():
    session, context = opened()
    tree = session.propose([*context, *TEXT[:10], *TEXT[30:31]], max_nodes=8)
    assert 131 in tree.tokens


def test_of_equal_places_the_nearest_is_taken():
    text = (*range(10), 77, 201, *range(20, 30), 77, 202, *range(40, 50), 77, 203, 204)
    session, context = opened(text=text)
    output = [*text[:18], 500, 501, 502, 503, 77]  # astray shortly before the second 77
    assert main_path(session.propose([*context, *output], max_nodes=1)) == (202,)


def test_at_its_end_there_is_nothing_left_to_say():
    session, context = opened()
    assert len(session.propose([*context, *TEXT], max_nodes=4)) == 0


def test_an_empty_reference_gives_no_guess():
    session, context = opened(text=())
    assert len(session.propose([*context, 5], max_nodes=4)) == 0


def test_all_references_of_its_kind_are_followed_and_no_others():
    references = (
        Reference("near_hit", (1, 2)),
        Reference("near_hit", (3, 4)),
        Reference("prediction", (5, 6)),
    )
    session = ReferenceLookup("near_hit").open(DraftRequest(prompt=(9,), references=references))
    assert set(session.propose([9], max_nodes=8).tokens) == {1, 2, 3, 4}


def test_every_token_taken_over_counts_once():
    tracker = ReferenceTracker(TEXT, from_start=True)
    for token in (*TEXT[:10], 5, *TEXT[11:20], *TEXT[:3], *TEXT[3:6]):
        tracker.advance(token)
    assert tracker.taken == {*range(10), *range(11, 20)}


def test_a_text_of_its_own_takes_nothing_over():
    tracker = ReferenceTracker(TEXT, from_start=True)
    for token in range(50):
        tracker.advance(token)
    assert tracker.taken == set()


@pytest.mark.parametrize(("detour", "wrong"), [("replaced", 159), ("inserted", 161)])
def test_what_a_divergence_is_taken_for_is_learned_from_those_before(detour, wrong):
    reference, output = tuple(range(100, 200)), []
    session, _ = opened(text=reference, prompt=())
    for start in range(0, 60, 6):
        piece = reference[start : start + 6]
        output += [*piece[:-1], 7] if detour == "replaced" else [*piece, 7]
        tree = session.propose(output, max_nodes=8)
    claims = dict(zip(tree.tokens, tree.confidence, strict=True))
    assert claims[160] > 3 * claims.get(wrong, 0.0)


def test_a_text_that_leaves_tokens_out_is_found_again_at_once():
    session, context = opened()
    session.propose([*context, *TEXT[:10]], max_nodes=4)
    assert TEXT[13] in session.propose([*context, *TEXT[:10], TEXT[12]], max_nodes=8).tokens


def test_automata_that_outlive_their_requests_are_bounded_by_tokens():
    for start in range(10):
        _index(tuple(range(start, start + 5_000)))
    assert 0 < sum(map(len, _indexes)) <= 32_768
    assert _index(tuple(range(9, 5_009))) is _index(tuple(range(9, 5_009)))
