"""A draft model reads so much at a step and no more, and every text is read in the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafting.cost import StepCost
from drafting.mix import Ask, DraftControl, Drafting
from drafting.model_draft import MAX_LEVELS, READ_ROWS, ModelDrafter
from drafting.planner import Planner
from drafting.reading import Behind, share_out
from drafting.source import DraftRequest

FIXED, AUTO = DraftControl(mode="fixed"), DraftControl()
CHEAP = StepCost([(1, 1.0), (64, 1.1), (256, 1.2)])
FREE = StepCost([(1, 1e-6)])


@given(st.lists(st.builds(Behind, st.integers(0, 3000), st.booleans())), st.integers(1, 300))
def test_no_more_is_read_than_a_step_may(behind, rows):
    ready, chunk, part = share_out(behind, rows)
    assert sum(behind[place].unread for place in ready) + part <= rows
    assert (chunk is None) == (part == 0)
    if chunk is not None:
        assert chunk not in ready
        assert behind[chunk].worth
        assert behind[chunk].unread > part
    assert {place for place, one in enumerate(behind) if one.unread == 0} <= set(ready)


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(10, 300))
def test_every_text_is_read_in_as_many_steps_as_all_of_them_need(unread, rows):
    most = sum(unread) // rows + 1 + len(unread)  # a step may end with less than a whole text left
    steps = 0
    while len((turns := share_out([Behind(n) for n in unread], rows)).ready) < len(unread):
        for place in turns.ready:
            unread[place] = 0
        if turns.chunk is not None:
            unread[turns.chunk] -= turns.rows
        steps += 1
    assert steps <= most


def served(model, contexts, *, longest=None, control=FIXED, read_rows=READ_ROWS, cost=CHEAP):
    """Drafting with ``model`` alone, and an ask for each of ``contexts``."""
    drafter = ModelDrafter(model, cost=cost, longest=longest, read_rows=read_rows)
    mix = Drafting([drafter], Planner(CHEAP), clock=lambda: 0.0)
    sessions = [mix.open(DraftRequest(prompt=tuple(c[:-8])), control) for c in contexts]
    return mix, [Ask(s, c, 8, 8) for s, c in zip(sessions, contexts, strict=True)]


def texts(*lengths):
    return [[(n * 7 + place) % 50 for n in range(length)] for place, length in enumerate(lengths)]


def steps(mix, asks, model, count):
    """Which asks got a draft, and the rows of texts read, at each of so many steps."""
    drafted, rows = [], []
    for _ in range(count):
        model.reads.clear()
        drafted.append([len(tree) > 0 for tree in mix.propose(asks)])
        rows.append(sum(model.reads))
    return drafted, rows


@pytest.mark.parametrize("rows", [64, 256])
def test_many_long_prompts_at_once_are_read_over_many_steps(table_model, rows):
    mix, asks = served(table_model, texts(*[1500] * 32), read_rows=rows)
    needed = -(-32 * 1499 // rows)
    drafted, read = steps(mix, asks, table_model, needed + 32)
    assert max(read) <= rows
    assert sum(read) == 32 * 1499
    assert sum(drafted[needed // 2]) in range(8, 25)  # one after the other, not all at the end
    assert all(drafted[-1])


def test_a_request_drafts_once_its_text_is_read_and_not_before(table_model):
    mix, asks = served(table_model, texts(1000))
    drafted, read = steps(mix, asks, table_model, 6)
    assert read == [256, 256, 256, 231, 0, 0]
    assert [step[0] for step in drafted] == [False, False, False, True, True, True]


def test_a_long_text_delays_no_neighbours_draft(table_model):
    mix, asks = served(table_model, texts(3000, 20, 40))
    drafted, read = steps(mix, asks, table_model, 3)
    assert all(step == [False, True, True] for step in drafted)
    assert read == [256] * 3


def test_a_text_that_is_not_worth_reading_is_not_read(table_model):
    dear = StepCost([(1, 1.0), (64, 64.0)])
    mix, asks = served(table_model, texts(1000), control=AUTO, cost=dear)
    drafted, read = steps(mix, asks, table_model, 20)
    assert not any(step[0] for step in drafted)
    assert sum(read) == 0


@pytest.mark.parametrize("control", [AUTO, FIXED])
def test_a_text_longer_than_the_model_takes_is_never_read(table_model, control):
    mix, asks = served(table_model, texts(100, 200), longest=150, control=control, cost=FREE)
    drafted, read = steps(mix, asks, table_model, 3)
    assert all(step == [True, False] for step in drafted)
    assert read == [99, 0, 0]
    assert set(table_model.known.values()) == {99}


def test_no_draft_reaches_beyond_what_the_model_takes(table_model):
    mix, asks = served(table_model, texts(100, 98, 99), longest=100)
    trees = mix.propose(asks)
    assert [max(tree.depths(), default=0) for tree in trees] == [0, 2, 1]
    assert ModelDrafter(table_model, longest=100).open(DraftRequest(prompt=())).room([1]) == (
        MAX_LEVELS
    )


def test_a_text_that_grew_too_long_frees_the_models_state(table_model):
    mix, asks = served(table_model, texts(99), longest=100)
    mix.propose(asks)
    assert len(table_model.live) == 1
    mix.propose([asks[0]._replace(context=[*asks[0].context, 1, 2])])
    assert not table_model.live


@pytest.mark.parametrize("nodes", [8, 32])
def test_drafts_stay_small_where_they_cost_nothing(table_model, nodes):
    table_model.scale = 0.01  # every token is as likely as any other
    mix, asks = served(table_model, texts(20, 30), control=AUTO, cost=FREE)
    mix.propose([ask._replace(max_nodes=nodes) for ask in asks])
    levels = [[len(query.nodes) for query in queries] for queries in table_model.forwards]
    assert max(map(max, levels), default=0) <= nodes + 1
    grown = [len(query.tree_tokens) for queries in table_model.forwards for query in queries]
    assert max(grown, default=0) <= 8 * nodes
