"""The contract every draft source keeps; a new source is added to the list here."""

from __future__ import annotations

import pytest

from drafting.model_draft import ModelDrafter
from drafting.reference_lookup import ReferenceLookup
from drafting.source import DraftRequest, Reference
from drafting.suffix_lookup import PromptLookup

KINDS = ("prediction", "rejected_answer", "near_hit", "recent_answer")
NAMES = ("prompt_lookup", *KINDS, "draft_model")
PROMPT = (5, 6, 7, 8, 9, 5, 6, 7)
OUTPUT = [8, 9, 5, 6, 10, 11, 8, 9, 5]


@pytest.fixture(params=NAMES)
def source(request, table_model):
    if request.param == "prompt_lookup":
        return PromptLookup()
    if request.param == "draft_model":
        return ModelDrafter(table_model)
    return ReferenceLookup(request.param)


@pytest.fixture
def session(source):
    references = tuple(Reference(kind, (8, 9, 5, 6, 7, 10, 11)) for kind in KINDS)
    session = source.open(DraftRequest(prompt=PROMPT, references=references))
    yield session
    session.close()


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


def test_requests_do_not_see_each_other(source):
    first = source.open(DraftRequest(prompt=PROMPT))
    alone = source.open(DraftRequest(prompt=PROMPT))
    expected = alone.propose(PROMPT, max_nodes=6)
    other = source.open(DraftRequest(prompt=(1, 2, 3, 1, 2)))
    other.propose((1, 2, 3, 1, 2), max_nodes=6)
    other.close()
    assert first.propose(PROMPT, max_nodes=6) == expected
