"""Nodes go where they save time, and nowhere when they do not."""

from __future__ import annotations

import pytest

from drafting.calibration import HitRate, Outlook
from drafting.cost import StepCost
from drafting.merge import chain
from drafting.planner import Batch, Planner, Scored
from drafting.tree import EMPTY, ROOT, DraftTree

CHEAP = StepCost([(1, 1.0), (64, 1.2), (128, 2.4)])  # rows are nearly free up to 64
LINEAR = StepCost([(1, 1.0), (64, 64.0)])  # every row costs as much as the first


def scored(*path_probs: float) -> Scored:
    """A chain whose nodes are reached with these probabilities."""
    return Scored(chain(range(len(path_probs)), [0.5] * len(path_probs), "a"), list(path_probs))


def sizes(trees):
    return [len(tree) for tree in trees]


def test_likely_nodes_are_verified_where_rows_are_cheap():
    assert sizes(Planner(CHEAP).select([scored(0.9, 0.8, 0.7)], Batch(1))) == [3]


def test_nothing_is_verified_where_every_row_costs_full_price():
    planner = Planner(LINEAR)
    assert sizes(planner.select([scored(0.9, 0.8, 0.7)], Batch(1))) == [0]
    assert not planner.worthwhile(Batch(1))


def test_unlikely_nodes_are_dropped():
    assert sizes(Planner(CHEAP).select([scored(0.9, 0.8, 1e-4)], Batch(1))) == [2]


def test_the_budget_goes_to_the_likelier_request():
    cost = StepCost([(1, 1.0), (10, 1.05), (11, 9.0)])  # room for ten rows
    sure, vague = scored(*[0.9] * 8), scored(*[0.3] * 8)
    assert sizes(Planner(cost).select([vague, sure], Batch(2))) == [0, 8]


def test_the_budget_shrinks_to_nothing_with_load():
    cost = StepCost([(1, 1.0), (32, 1.1), (64, 2.2), (128, 4.4)])
    planner = Planner(cost)
    nodes = [
        sum(sizes(planner.select([scored(0.8, 0.6, 0.4, 0.2)] * load, Batch(load))))
        for load in (1, 8, 16, 64)
    ]
    assert nodes[0] == 4
    assert nodes[1] / 8 > nodes[2] / 16 > nodes[3] / 64 == 0
    assert planner.worthwhile(Batch(1))
    assert not planner.worthwhile(Batch(64))


def test_rows_of_prefill_count_as_load():
    cost = StepCost([(1, 1.0), (32, 1.1), (64, 2.2), (128, 4.4)])
    planner = Planner(cost)
    assert sizes(planner.select([scored(0.8, 0.6)], Batch(1, 0))) == [2]
    assert sizes(planner.select([scored(0.03)], Batch(1, 0))) == [1]
    assert sizes(planner.select([scored(0.03)], Batch(1, 100))) == [0]
    assert not Planner(LINEAR).worthwhile(Batch(4, 100))


def test_a_kept_node_has_its_parent_kept():
    tree = DraftTree((1, 2, 3, 4), (ROOT, ROOT, 0, 2), (frozenset("a"),) * 4, (0.9, 0.1, 0.9, 0.9))
    planner = Planner(CHEAP)
    (cut,) = planner.select([planner.score(tree, Outlook())], Batch(1))
    assert 1 <= len(cut) <= 4
    assert cut.tokens[:1] == (1,)


def test_a_source_that_is_always_wrong_is_given_up_and_can_come_back():
    planner = Planner(StepCost([(1, 1.0), (2, 1.1), (64, 8.0)]))
    tree = chain([1], [0.9], "a")

    def verified() -> int:
        return sizes(planner.select([planner.score(tree, Outlook())], Batch(1)))[0]

    assert verified() == 1
    for _ in range(100):
        planner.learn(tree, [2], Outlook())
    assert verified() == 0
    for _ in range(200):
        planner.learn(tree, [1], Outlook())  # seen without being verified
    assert verified() == 1


def test_a_trial_is_afforded_once_enough_was_put_by():
    planner, steps = Planner(CHEAP), 0
    while not planner.affords_trial(0.5):
        planner.earn_trial(Batch(1))
        steps += 1
    assert 0.5 / steps < 0.01  # a hundredth of the time at most
    planner.spend(0.8)
    assert not planner.affords_trial(0.0)  # what was spent beyond it is owed


def test_what_is_put_by_for_trials_is_bounded():
    planner = Planner(CHEAP)
    for _ in range(10_000):
        planner.earn_trial(Batch(1))
    assert not planner.affords_trial(5.0)


def test_no_request_gets_more_nodes_than_it_may():
    planner = Planner(CHEAP)
    assert planner.share_out([[0.9, 0.8, 0.7], [0.9]], Batch(2), [2, 1]) == [[0, 1], [0]]


def test_a_long_context_makes_rows_dearer():
    planner = Planner(StepCost([(1, 1.0), (64, 1.2)], per_pair=1e-3))
    assert sizes(planner.select([scored(0.5)], Batch(1, 0, 100.0))) == [1]
    assert sizes(planner.select([scored(0.5)], Batch(1, 0, 5000.0))) == [0]


def test_the_same_history_gives_the_same_plan():
    def history() -> list[list[DraftTree]]:
        planner, outlook, plans = Planner(CHEAP), Outlook(), []
        for step in range(50):
            tree = chain([step % 3, 1], [0.6, 0.7], "a")
            plans.append(planner.select([planner.score(tree, outlook)], Batch(1)))
            planner.learn(tree, [0, 1], outlook)
        return plans

    assert history() == history()


def test_no_proposals_give_empty_trees():
    planner = Planner(CHEAP)
    assert planner.select([planner.score(EMPTY, Outlook())], Batch(1)) == [EMPTY]


@pytest.mark.parametrize("hit", [True, False])
def test_hit_rates_follow_what_happens(hit):
    rate = HitRate()
    for _ in range(300):
        rate.observe(hit)
    assert rate.rate == pytest.approx(float(hit), abs=0.1)


def test_a_request_begins_with_what_others_found_and_soon_goes_its_own_way():
    common = HitRate()
    for _ in range(100):
        common.observe(False)
    own = HitRate(common)
    assert own.rate == common.rate < 0.1
    own.observe(True)
    own.observe(True)
    assert own.rate > 0.5
    assert common.rate < 0.2
