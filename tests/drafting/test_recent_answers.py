"""What an owner was answered lately is proposed again, to nobody else, and not for ever."""

from __future__ import annotations

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
    for other in range(300):
        source.keep(str(other), ANSWER)
    assert proposed(source, [110, 111]) == ()
    assert proposed(source, [110, 111], owner="299") != ()


def test_a_long_answer_is_kept_in_part_and_a_tiny_one_not_at_all():
    source = RecentAnswers()
    source.keep("me", range(5000))
    source.keep("you", [1, 2, 3])
    assert proposed(source, [3000, 3001]) == ()
    assert proposed(source, [100, 101]) != ()
    assert proposed(source, [1, 2], owner="you") == ()
