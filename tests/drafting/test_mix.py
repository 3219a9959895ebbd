"""All sources together serve a batch, credit each proposer and honour what a request wishes."""

from __future__ import annotations

import pytest

from drafting.cost import StepCost
from drafting.errors import InvalidControl, UnknownSource
from drafting.mix import Ask, Credit, DraftControl, Drafting
from drafting.model_draft import MAX_LEVELS, ModelDrafter
from drafting.planner import Planner
from drafting.reference_lookup import ReferenceLookup
from drafting.source import DraftRequest, Reference
from drafting.suffix_lookup import PromptLookup
from drafting.tree import EMPTY, ROOT

CHEAP = StepCost([(1, 1.0), (64, 1.1), (256, 4.0)])
LINEAR = StepCost([(1, 1.0), (64, 64.0)])
PROMPT = (1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3)
FIXED = DraftControl(mode="fixed")


def drafting(cost=CHEAP, model=None, max_nodes=16, clock=lambda: 0.0):
    sources = [ReferenceLookup("prediction"), ReferenceLookup("rejected_answer"), PromptLookup()]
    draft_cost = StepCost([(1, 0.05), (64, 0.06)])
    models = [] if model is None else [ModelDrafter(model, cost=draft_cost)]
    return Drafting([*sources, *models], Planner(cost, max_nodes=max_nodes), clock=clock)


def request(*predictions, kind="prediction", prompt=PROMPT):
    return DraftRequest(prompt=prompt, references=tuple(Reference(kind, p) for p in predictions))


def ask(session, context=PROMPT, max_nodes=16, max_depth=100):
    return Ask(session, context, max_nodes, max_depth)


def walk(tree, truth):
    """What a target that says ``truth`` makes of the tree: path and emitted tokens."""
    node, path = ROOT, []
    for count, token in enumerate(truth, start=1):
        found = [
            child
            for child, parent in enumerate(tree.parents)
            if parent == node and tree.tokens[child] == token
        ]
        if not found:
            return path, list(truth[:count])
        node = found[0]
        path.append(node)
    return path, list(truth)


def run(mix, session, truth, context=PROMPT):
    """Decode all of ``truth``; the number of steps it took."""
    context, steps, done = list(context), 0, 0
    while done < len(truth):
        (tree,) = mix.propose([ask(session, context, max_depth=len(truth) - done - 1)])
        path, tokens = walk(tree, truth[done:])
        mix.credit(session, tree, path, tokens)
        context += tokens
        done += len(tokens)
        steps += 1
    return steps


def test_a_node_two_sources_propose_is_credited_to_both():
    mix = drafting()
    session = mix.open(request((4, 5, 6, 7)), FIXED)
    (tree,) = mix.propose([ask(session)])
    assert tree.tokens[:2] == (4, 5)
    assert tree.sources[0] == {"prediction", "prompt_lookup"}
    path, tokens = walk(tree, [4, 5, 9])
    mix.credit(session, tree, path, tokens)
    assert {name: credit.accepted for name, credit in session.credits.items()} == {
        "prediction": 2,
        "prompt_lookup": 2,
    }
    assert session.credits["prediction"] == Credit(proposed=4, accepted=2)


def test_a_right_prediction_takes_few_steps():
    mix = drafting()
    truth = list(range(100, 160))
    session = mix.open(request(tuple(truth)), DraftControl())
    assert run(mix, session, truth) <= 10
    assert session.accepted_prediction_tokens == 60
    assert session.rejected_prediction_tokens == 0


def test_prediction_tokens_are_counted_alike_with_and_without_drafts():
    truth = [*range(100, 120), 7, 7, *range(122, 140)]
    counts = []
    for control in (DraftControl(), DraftControl(mode="off"), FIXED):
        mix = drafting()
        session = mix.open(request(tuple(range(100, 150))), control)
        run(mix, session, truth)
        counts.append((session.accepted_prediction_tokens, session.rejected_prediction_tokens))
    assert len(set(counts)) == 1
    accepted, rejected = counts[0]
    assert 36 <= accepted <= 38
    assert accepted + rejected == 50


def test_a_rejected_answer_changes_no_prediction_count():
    mix = drafting()
    session = mix.open(request((4, 5, 6), kind="rejected_answer"), FIXED)
    run(mix, session, [4, 5, 6, 9])
    assert session.credits["rejected_answer"].accepted == 3
    assert (session.accepted_prediction_tokens, session.rejected_prediction_tokens) == (0, 0)


def test_off_proposes_nothing_and_opens_nothing(table_model):
    mix = drafting(model=table_model)
    session = mix.open(request((4, 5)), DraftControl(mode="off"))
    assert mix.propose([ask(session)]) == [EMPTY]
    assert table_model.forwards == []
    assert table_model.opened == 0


def test_fixed_always_uses_its_nodes_even_where_they_do_not_pay():
    mix = drafting(LINEAR)
    session = mix.open(request(tuple(range(50))), DraftControl(mode="fixed", max_nodes=5))
    assert len(mix.propose([ask(session)])[0]) == 5


def test_auto_proposes_nothing_where_it_does_not_pay(table_model):
    mix = drafting(LINEAR, table_model)
    session = mix.open(request(tuple(range(50))), DraftControl())
    assert [len(mix.propose([ask(session)])[0]) for _ in range(50)] == [0] * 50
    assert table_model.forwards == []


def test_only_wished_sources_are_asked(table_model):
    mix = drafting(model=table_model)
    control = DraftControl(mode="fixed", sources=frozenset({"prompt_lookup"}))
    session = mix.open(request((4, 9)), control)
    (tree,) = mix.propose([ask(session)])
    assert set().union(*tree.sources) == {"prompt_lookup"}
    assert table_model.forwards == []


def test_an_unknown_source_is_an_error_that_names_the_known():
    with pytest.raises(UnknownSource, match=r"'oracle'.*'prompt_lookup'"):
        drafting().open(request(), DraftControl(sources=frozenset({"oracle", "prediction"})))


def test_a_source_that_is_not_configured_is_an_error():
    with pytest.raises(UnknownSource, match="draft_model"):
        drafting().check(DraftControl(sources=frozenset({"draft_model"})))


def test_more_nodes_than_configured_are_an_error():
    with pytest.raises(InvalidControl, match="got max_nodes 17; expected at most 16"):
        drafting().check(DraftControl(max_nodes=17))


def test_negative_nodes_are_an_error():
    with pytest.raises(InvalidControl, match="-1"):
        DraftControl(max_nodes=-1)


def test_two_sources_of_one_name_are_refused():
    with pytest.raises(ValueError, match="distinct"):
        Drafting([PromptLookup(), PromptLookup()], Planner(CHEAP))


@pytest.mark.parametrize("control", [FIXED, DraftControl()])
@pytest.mark.parametrize(("nodes", "depth"), [(0, 9), (3, 9), (16, 1), (16, 0), (16, 2)])
def test_the_engines_room_is_kept(control, nodes, depth, table_model):
    mix = drafting(model=table_model)
    session = mix.open(request((4, 5, 6, 7, 8), (4, 9, 9, 9, 9)), control)
    (tree,) = mix.propose([ask(session, max_nodes=nodes, max_depth=depth)])
    assert len(tree) <= nodes
    assert max(tree.depths(), default=0) <= depth


def test_a_batch_shares_the_draft_models_forwards(table_model):
    mix = drafting(model=table_model)
    sessions = [mix.open(request(), FIXED) for _ in range(4)]
    trees = mix.propose([ask(session, [20 + n], 8) for n, session in enumerate(sessions)])
    assert all(len(tree) > 0 for tree in trees)
    assert len(table_model.forwards[0]) == 4
    assert len(table_model.forwards) <= MAX_LEVELS


def test_each_request_of_a_batch_gets_its_own_tree():
    mix = drafting()
    sessions = [mix.open(request((token,)), FIXED) for token in (30, 31, 32)]
    trees = mix.propose([ask(session, [99]) for session in sessions])
    assert [tree.tokens for tree in trees] == [(30,), (31,), (32,)]


def test_a_new_request_expects_of_the_draft_model_what_others_found(sure_model):
    mix = drafting(model=sure_model)
    for _ in range(40):
        session = mix.open(request(prompt=(20,)), FIXED)
        (tree,) = mix.propose([ask(session, [20])])
        mix.credit(session, tree, [], [999])  # never right
        session.close()
    forwards = len(sure_model.forwards)
    fresh = mix.open(request(prompt=(20,)), DraftControl())
    assert mix.propose([ask(fresh, [20])]) == [EMPTY]
    assert len(sure_model.forwards) == forwards


def test_no_asks_give_no_trees():
    assert drafting().propose([]) == []


def test_drafts_that_never_come_true_are_sought_ever_more_rarely():
    mix = drafting(StepCost([(1, 1.0), (2, 1.3), (64, 20.0)]))
    wrong = tuple([9] * 400)
    session = mix.open(request(wrong), DraftControl())
    truth = list(range(100, 400))
    context, sought, verified = list(PROMPT), 0, 0
    for token in truth:
        (tree,) = mix.propose([ask(session, context)])
        sought += len(session.proposed) > 0
        verified += len(tree)
        path, tokens = walk(tree, [token])
        mix.credit(session, tree, path, tokens)
        context += tokens
    assert sought < 60
    assert verified < 30


def test_drafts_that_come_true_again_are_used_again():
    mix = drafting(StepCost([(1, 1.0), (2, 1.3), (64, 20.0)]))
    session = mix.open(request(tuple(range(500, 900))), DraftControl())
    truth = [*range(100, 200), *range(500, 700)]
    assert run(mix, session, truth) < 240


def test_closing_frees_the_draft_model_and_ends_proposals(table_model):
    mix = drafting(model=table_model)
    session = mix.open(request(), FIXED)
    mix.propose([ask(session)])
    assert len(table_model.live) == 1
    session.close()
    session.close()
    assert not table_model.live
    assert mix.propose([ask(session)]) == [EMPTY]


class Faulty:
    """A source that fails at whatever it is told to."""

    name = "faulty"

    def __init__(self, at):
        self.at, self.calls = at, 0

    def _fail(self, at):
        self.calls += 1
        if at == self.at:
            raise RuntimeError(f"no {at}")

    def open(self, request):
        self._fail("open")
        return self

    def propose(self, context, *, max_nodes):
        self._fail("propose")
        return EMPTY

    def watch(self, tree, guesses):
        self._fail("watch")

    def keep(self, owner, output):
        self._fail("keep")

    def close(self):
        self._fail("close")


@pytest.mark.parametrize("at", ["open", "propose", "watch", "keep", "close"])
def test_a_source_that_fails_costs_its_drafts_and_nothing_else(at):
    faulty = Faulty(at)
    mix = Drafting([PromptLookup(), faulty], Planner(CHEAP), clock=lambda: 0.0)
    for _ in range(5):
        session = mix.open(request(), FIXED)
        (tree,) = mix.propose([ask(session)])
        assert tree.tokens[:2] == (4, 5)
        mix.credit(session, tree, [0, 1], [4, 5, 9], guesses=[4, 5, 9, *[0] * (len(tree) - 2)])
        session.close()
    assert set(mix.failures) == {"faulty"}
    assert 1 <= mix.failures["faulty"] <= 5
    calls = faulty.calls
    if at in ("open", "propose"):
        mix.propose([ask(mix.open(request(), FIXED))])
        assert faulty.calls == calls  # given up


def test_a_draft_model_that_fails_is_given_up_and_frees_its_state(table_model):
    mix = drafting(model=table_model)
    table_model.candidates = None
    for _ in range(5):
        session = mix.open(request((4, 5, 6)), FIXED)
        (tree,) = mix.propose([ask(session)])
        assert tree.tokens[:3] == (4, 5, 6)
        assert not table_model.live
    assert mix.failures == {"draft_model": 3}
