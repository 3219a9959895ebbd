"""What an owner was answered lately is proposed again, to nobody else, and not for ever."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from drafting.recent_answers import RecentAnswers
from drafting.source import DraftRequest

ANSWER = tuple(range(100, 140))


def proposed(source, context, owner="me", max_nodes=4):
    session = source.open(DraftRequest(prompt=(), owner=owner))
    return session.propose(context, max_nodes=max_nodes).tokens


def test_an_answer_is_continued_where_two_of_its_tokens_recur():
    source = RecentAnswers()
    source.keep("me", ANSWER)
    assert proposed(source, [5, 110, 111]) == ANSWER[12:16]
    assert proposed(source, [5, 111, 110]) == ()


def test_the_latest_answer_wins():
    source = RecentAnswers()
    source.keep("me", ANSWER)
    source.keep("me", [*ANSWER[:12], *range(7, 0, -1)])
    assert proposed(source, [110, 111]) == (7, 6, 5, 4)


def test_a_match_that_goes_on_is_surer():
    source = RecentAnswers()
    source.keep("me", ANSWER)
    session = source.open(DraftRequest(prompt=(), owner="me"))
    short = session.propose([5, 110, 111], max_nodes=1).confidence[0]
    long = session.propose([5, *ANSWER[10:20]], max_nodes=1).confidence[0]
    assert long > short


def test_old_answers_make_room():
    source = RecentAnswers()
    source.keep("me", ANSWER)
    for start in range(1000, 1000 + 50 * 40, 50):
        source.keep("me", range(start, start + 40))
    assert proposed(source, [110, 111]) == ()
    assert proposed(source, [2960, 2961]) == (2962, 2963, 2964, 2965)


def test_owners_who_have_not_asked_for_long_make_room():
    source = RecentAnswers()
    source.keep("me", ANSWER)
    for other in range(6000):
        source.keep(str(other), ANSWER)
    assert proposed(source, [110, 111]) == ()
    assert proposed(source, [110, 111], owner="5999") != ()


def test_a_long_answer_is_kept_in_part_and_a_tiny_one_not_at_all():
    source = RecentAnswers()
    source.keep("me", range(5000))
    source.keep("you", [1, 2, 3])
    assert proposed(source, [3000, 3001]) == ()
    assert proposed(source, [100, 101]) != ()
    assert proposed(source, [1, 2], owner="you") == ()


@pytest.mark.parametrize(("tokens", "owners"), [(1024, 400), (8, 12_000)])
def test_all_that_is_kept_stays_below_its_bound_in_bytes(tokens, owners):
    source = RecentAnswers()
    draw = random.Random(1)
    tracemalloc.start()
    for owner in range(owners):
        source.keep(str(owner), [draw.randrange(2**17) for _ in range(tokens)])
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 8 * 2**20 < used < 34 * 2**20


def test_an_answer_that_goes_takes_only_its_own_places_along():
    source = RecentAnswers()
    source.keep("me", ANSWER)
    source.keep("me", [*ANSWER[:20], *range(7, 0, -1)])
    for start in range(1000, 1000 + 50 * 31, 50):
        source.keep("me", range(start, start + 40))
    assert proposed(source, [130, 131]) == ()
    assert proposed(source, [118, 119]) == (7, 6, 5, 4)
