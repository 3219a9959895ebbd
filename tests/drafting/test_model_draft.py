"""A draft model draws as the target will, for a whole batch at once."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from drafting.growth import Growth
from drafting.merge import chain, path_probs
from drafting.model_draft import MAX_LEVELS, ModelAsk, ModelDrafter, thorough
from drafting.source import DraftRequest
from drafting.tree import ROOT

GREEDY = DraftRequest(prompt=(1,))


def top_chain(tree):
    """The first child of every node along the surest way."""
    node, path = ROOT, []
    while below := [i for i, parent in enumerate(tree.parents) if parent == node]:
        node = max(below, key=lambda child: tree.confidence[child])
        path.append(tree.tokens[node])
    return path


def test_at_temperature_0_the_surest_way_is_the_models_own_text(sure_model):
    tree = ModelDrafter(sure_model).open(GREEDY).propose([1], max_nodes=16)
    last, expected = 1, []
    for _ in top_chain(tree):
        last = int(sure_model.logprobs(last).argmax())
        expected.append(last)
    assert top_chain(tree) == expected
    assert len(expected) >= 3


def test_above_it_children_are_the_best_of_logits_and_the_targets_noise(table_model, noise):
    request = DraftRequest(prompt=(1,), temperature=0.7, noise=noise)
    context = [3, 1]
    tree = ModelDrafter(table_model).open(request).propose(context, max_nodes=16)
    for depth, token in enumerate(top_chain(tree)):
        last = (context[-1:] + top_chain(tree))[depth]
        scores = table_model.logprobs(last) / 0.7 + noise(len(context) + depth, np.arange(50))
        assert token == scores.argmax()


def test_the_target_agrees_more_often_with_shared_noise_than_with_other(noise):
    rng = np.random.default_rng(0)
    agreed = {"shared": 0, "own": 0}
    for position in range(300):
        target = rng.normal(0, 2.5, 500)
        draft = target + rng.normal(0, 0.7, 500)
        wanted = (target + noise(position, np.arange(500))).argmax()
        agreed["shared"] += (draft + noise(position, np.arange(500))).argmax() == wanted
        agreed["own"] += (draft + noise(position + 1000, np.arange(500))).argmax() == wanted
    assert agreed["shared"] > 3 * agreed["own"]


def grown(drafter, *asks):
    """The trees of ``asks``, (session, context, nodes, depth) each, drafted together."""
    asked = [ModelAsk(s, context, nodes, Growth(), depth) for s, context, nodes, depth in asks]
    drafter.grow(asked, thorough)
    return [ask.growth.tree() for ask in asked]


def test_a_batch_takes_one_forward_for_each_level(table_model):
    drafter = ModelDrafter(table_model)
    grown(drafter, *[(drafter.open(GREEDY), [1, n], 12, 3) for n in range(5)])
    assert len(table_model.forwards) <= 3
    assert len(table_model.forwards[0]) == 5


def test_a_batch_gives_each_request_what_it_would_get_alone(table_model, noise):
    drafter = ModelDrafter(table_model)
    sampled = DraftRequest(prompt=(1,), temperature=1.0, noise=noise)
    asks = [([1, 2, 3], 9, 24), ([4], 5, 1), ([5], 0, 24)]
    together = grown(drafter, *[(drafter.open(sampled), *ask) for ask in asks])
    alone = [grown(drafter, (drafter.open(sampled), *ask))[0] for ask in asks]
    assert together == alone
    assert [max(tree.depths(), default=0) for tree in together][1:] == [1, 0]


def test_forwards_are_bounded(sure_model):
    sure_model.scale = 100.0
    ModelDrafter(sure_model).open(GREEDY).propose([1], max_nodes=1000)
    assert len(sure_model.forwards) == MAX_LEVELS


def test_unlikely_paths_are_not_expanded(table_model):
    tree = ModelDrafter(table_model).open(GREEDY).propose([1], max_nodes=64)
    probs = path_probs(tree)
    expanded = {parent for parent in tree.parents if parent != ROOT}
    assert expanded
    assert all(probs[node] >= 0.05 for node in expanded)


def test_nothing_follows_a_token_that_ends_the_output(sure_model):
    drafter = ModelDrafter(sure_model)
    (plain,) = grown(drafter, (drafter.open(GREEDY), [1], 16, 24))
    end = top_chain(plain)[1]
    ask = ModelAsk(drafter.open(GREEDY), [1], 16, Growth(), ends=frozenset({end}))
    drafter.grow([ask], thorough)
    tree = ask.growth.tree()
    ends = {node for node, token in enumerate(tree.tokens) if token == end}
    assert ends
    assert not ends & set(tree.parents)


def test_what_others_proposed_is_read_in_one_forward_and_carried_on(sure_model):
    last, text = 1, []
    for _ in range(6):
        last = int(sure_model.logprobs(last).argmax())
        text.append(last)
    drafter = ModelDrafter(sure_model)
    growth = Growth(chain(text[:4], [0.9] * 4, "lookup"))
    ask = ModelAsk(drafter.open(GREEDY), [1], 16, growth, max_depth=6)
    drafter.grow([ask], thorough)
    assert len(sure_model.forwards) <= 3
    tree = growth.tree()
    assert top_chain(tree)[:5] == text[:5]
    assert tree.sources[0] == {"lookup", "draft_model"}


def test_partial_trees_only_grow_between_forwards(table_model):
    ModelDrafter(table_model).open(GREEDY).propose([1], max_nodes=30)
    queries = [forward[0] for forward in table_model.forwards]
    assert len(queries) > 2
    for before, after in pairwise(queries):
        assert after.tree_tokens[: len(before.tree_tokens)] == before.tree_tokens
        assert after.tree_parents[: len(before.tree_parents)] == before.tree_parents


def test_the_models_state_is_reserved_at_the_first_draft_and_freed_at_the_end(table_model):
    session = ModelDrafter(table_model).open(GREEDY)
    assert not table_model.live
    session.propose([1], max_nodes=2)
    assert len(table_model.live) == 1
    session.close()
    assert not table_model.live


class _Unsound:
    """A draft model whose scores are not numbers."""

    def __init__(self, inner) -> None:
        self._inner = inner
        self.open, self.close = inner.open, inner.close

    def candidates(self, queries, *, width):
        answers = self._inner.candidates(queries, width=width)
        return [replace(answer, logprobs=answer.logprobs * np.nan) for answer in answers]


def test_scores_that_are_no_numbers_draft_nothing(table_model, noise):
    for request in (GREEDY, DraftRequest(prompt=(1,), temperature=0.7, noise=noise)):
        session = ModelDrafter(_Unsound(table_model)).open(request)
        assert len(session.propose([1], max_nodes=16)) == 0
    assert len(table_model.forwards) == 2


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-12])
def test_the_coldest_temperatures_draft_as_greedily_as_can_be(sure_model, noise, temperature):
    cold = DraftRequest(prompt=(1,), temperature=temperature, noise=noise)
    tree = ModelDrafter(sure_model).open(cold).propose([1], max_nodes=16)
    plain = ModelDrafter(sure_model).open(GREEDY).propose([1], max_nodes=16)
    assert all(0.0 <= claim <= 1.0 for claim in tree.confidence)
    assert top_chain(tree)[:3] == top_chain(plain)[:3]
    assert len(sure_model.forwards) <= 2 * MAX_LEVELS
