"""The contract every draft source keeps; a new source is added to the list here."""

from __future__ import annotations

import pytest

from drafting.lookahead import Lookahead
from drafting.merge import chain
from drafting.model_draft import ModelDrafter
from drafting.recent_answers import RecentAnswers
from drafting.reference_lookup import ReferenceLookup
from drafting.source import DraftRequest, Reference, keeps, watches
from drafting.suffix_lookup import PromptLookup
from verifier.draft_sources import MAKERS as REGISTERED

KINDS = ("prediction", "rejected_answer", "near_hit", "recent_answer")
MAKERS = {
    "prompt_lookup": lambda model: PromptLookup(),
    **{kind: lambda model, kind=kind: ReferenceLookup(kind) for kind in KINDS[:3]},
    "recent_answer": lambda model: RecentAnswers(),
    "lookahead": lambda model: Lookahead(),
    "draft_model": ModelDrafter,
    "early_exit": lambda model: ModelDrafter(model, name="early_exit"),
}
PROMPT = (5, 6, 7, 8, 9, 5, 6, 7)
OUTPUT = [8, 9, 5, 6, 10, 11, 8, 9, 5]
ANSWER = (1, 8, 9, 5, 6, 7, 10, 11)
SEEN = chain([7, 1, 2, 3], [0.5] * 4, "seen")


@pytest.fixture(params=MAKERS)
def source(request, table_model):
    made = MAKERS[request.param](table_model)
    assert made.name == request.param
    if keeps(made):
        made.keep("me", ANSWER)
    return made


def opened(source, prompt=PROMPT, owner="me", references=()):
    """A session that has seen a verified tree, if it learns from any."""
    session = source.open(DraftRequest(prompt=prompt, owner=owner, references=references))
    if watches(session):
        session.propose(prompt, max_nodes=4)
        session.watch(SEEN, [8, 6, 7, 8, 9])
    return session


@pytest.fixture
def session(source):
    references = tuple(Reference(kind, (8, 9, 5, 6, 7, 10, 11)) for kind in KINDS)
    session = opened(source, references=references)
    yield session
    session.close()


def test_every_registered_source_is_in_the_list():
    assert set(MAKERS) == set(REGISTERED)


def test_it_proposes_something_in_its_own_name(source, session):
    tree = session.propose([*PROMPT, *OUTPUT], max_nodes=6)
    assert len(tree) > 0
    assert set(tree.sources) == {frozenset({source.name})}


@pytest.mark.parametrize("budget", [0, 1, 2, 7, 30])
def test_it_keeps_the_budget(session, budget):
    for end in range(len(OUTPUT) + 1):
        assert len(session.propose([*PROMPT, *OUTPUT[:end]], max_nodes=budget)) <= budget


def test_it_claims_probabilities(session):
    tree = session.propose([*PROMPT, *OUTPUT], max_nodes=12)
    assert len(tree.confidence) == len(tree)
    assert all(0.0 < claim <= 1.0 for claim in tree.confidence)


def test_it_says_the_same_twice(session):
    context = [*PROMPT, *OUTPUT]
    assert session.propose(context, max_nodes=8) == session.propose(context, max_nodes=8)


def test_an_empty_context_is_no_error(source):
    session = source.open(DraftRequest(prompt=()))
    assert len(session.propose([], max_nodes=4)) == 0
    session.close()


def test_a_negative_budget_gives_no_guess(session):
    assert len(session.propose(PROMPT, max_nodes=-1)) == 0


def test_after_close_it_proposes_nothing_and_closing_again_is_harmless(session):
    session.propose(PROMPT, max_nodes=4)
    session.close()
    session.close()
    assert len(session.propose([*PROMPT, *OUTPUT], max_nodes=4)) == 0


@pytest.mark.parametrize("budget", [1, 5])
def test_its_trees_are_trees(session, budget):
    for end in range(len(OUTPUT) + 1):
        tree = session.propose([*PROMPT, *OUTPUT[:end]], max_nodes=budget)
        assert len(tree) == len(tree.parents) == len(tree.sources)
        assert max(tree.depths(), default=0) <= budget


def test_requests_do_not_see_each_other(source):
    first, alone = opened(source), opened(source)
    expected = alone.propose(PROMPT, max_nodes=6)
    other = opened(source, prompt=(1, 2, 3, 1, 2))
    other.propose((1, 2, 3, 1, 2), max_nodes=6)
    other.close()
    assert first.propose(PROMPT, max_nodes=6) == expected


def test_what_one_owner_was_answered_serves_no_other(source):
    if not keeps(source):
        pytest.skip("keeps nothing")
    mine, theirs = opened(source), opened(source, owner="you")
    assert 6 in mine.propose([*PROMPT, 9, 5], max_nodes=4).tokens
    assert len(theirs.propose([*PROMPT, 9, 5], max_nodes=4)) == 0


def test_closed_sessions_hold_nothing_of_a_model(source, table_model):
    sessions = [opened(source) for _ in range(3)]
    for session in sessions:
        session.propose([*PROMPT, *OUTPUT], max_nodes=4)
    for session in sessions:
        session.close()
    assert not table_model.live
