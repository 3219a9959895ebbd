"""The draft model's incremental answers against one plain forward for each path."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from drafting.source import Candidates, NodeQuery
from drafting.tree import ROOT
from verifier.draft_model import MOST_READ, DraftNetwork
from verifier.loading import LoadedModel
from verifier.network import Network
from verifier.rows import CacheShape, ContextRows, Ragged

TOKENS = st.integers(3, 319)


@cache
def reference(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path)


def expected(path: Path, tokens: list[int], width: int) -> tuple[np.ndarray, np.ndarray]:
    model = reference(path)
    with torch.inference_mode():
        scores = model(torch.tensor([tokens])).logits[0, -1].log_softmax(-1).topk(width)
    return scores.indices.numpy(), scores.values.numpy()


def check(answer: Candidates, place: int, path: Path, tokens: list[int]) -> None:
    ids, values = expected(path, tokens, 3)
    np.testing.assert_array_equal(answer.tokens[place], ids)
    np.testing.assert_allclose(answer.logprobs[place], values, atol=1e-3)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_growth_of_contexts_and_trees_gives_what_plain_forwards_give(
    llama: LoadedModel, llama_path: Path, data: st.DataObject
) -> None:
    model = DraftNetwork(llama.network)
    contexts = [data.draw(st.lists(TOKENS, min_size=1, max_size=12)) for _ in range(2)]
    handles = [model.open() for _ in contexts]
    for _ in range(3):
        trees: list[tuple[list[int], list[int]]] = [([], []) for _ in contexts]
        frontiers = [[ROOT] for _ in contexts]
        for _ in range(2):
            queries = [
                NodeQuery(handle, context, tuple(tree[0]), tuple(tree[1]), tuple(frontier))
                for handle, context, tree, frontier in zip(
                    handles, contexts, trees, frontiers, strict=True
                )
            ]
            answers = model.candidates(queries, width=3)
            for index, (query, answer) in enumerate(zip(queries, answers, strict=True)):
                for place, node in enumerate(query.nodes):
                    check(answer, place, llama_path, contexts[index] + path_of(query, node))
                frontiers[index] = grow(trees[index], query, answer)
        for index, context in enumerate(contexts):
            context += emitted(trees[index], data)
    for handle in handles:
        model.close(handle)
    assert model.open_handles == 0


def path_of(query: NodeQuery, node: int) -> list[int]:
    path: list[int] = []
    while node != ROOT:
        path.append(query.tree_tokens[node])
        node = query.tree_parents[node]
    return path[::-1]


def grow(tree: tuple[list[int], list[int]], query: NodeQuery, answer: Candidates) -> list[int]:
    """Hang the two likeliest under each asked node; the new nodes are asked next."""
    added = []
    for place, node in enumerate(query.nodes):
        for token in answer.tokens[place, :2].tolist():
            tree[0].append(token)
            tree[1].append(node)
            added.append(len(tree[0]) - 1)
    return added


def emitted(tree: tuple[list[int], list[int]], data: st.DataObject) -> list[int]:
    """Some path of the tree, then a token that may or may not be in it."""
    node = data.draw(st.integers(ROOT, len(tree[0]) - 1))
    path: list[int] = []
    while node != ROOT:
        path.append(tree[0][node])
        node = tree[1][node]
    return [*path[::-1], data.draw(TOKENS)]


def test_a_context_that_ran_ahead_is_caught_up_in_one_forward(
    llama: LoadedModel, llama_path: Path
) -> None:
    model = DraftNetwork(llama.network)
    handle = model.open()
    context = list(range(5, 15))
    model.candidates([NodeQuery(handle, context, (), (), (ROOT,))], width=3)
    context += list(range(50, 90))
    [answer] = model.candidates([NodeQuery(handle, context, (), (), (ROOT,))], width=3)
    check(answer, 0, llama_path, context)


def test_asking_for_the_same_node_twice_gives_the_same_answer(llama: LoadedModel) -> None:
    model = DraftNetwork(llama.network)
    query = NodeQuery(model.open(), [5, 6, 7], (9, 10), (ROOT, 0), (ROOT, 1))
    first, second = (model.candidates([query], width=4)[0] for _ in range(2))
    np.testing.assert_array_equal(first.tokens, second.tokens)
    np.testing.assert_allclose(first.logprobs, second.logprobs, atol=1e-4)


class Counted:
    """A network that notes the rows of each forward, and the rows each request holds."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.fresh: list[int] = []
        self.held: list[int] = []

    @property
    def device(self) -> torch.device:
        return self._network.device

    @property
    def cache_shape(self) -> CacheShape:
        return self._network.cache_shape

    def forward(
        self, batch: Ragged, cache: ContextRows, wanted: torch.Tensor | None = None
    ) -> torch.Tensor:
        self.fresh.append(len(batch.tokens))
        self.held.append(max(one.context + len(one.parents) for one in batch.requests))
        return self._network.forward(batch, cache, wanted)


def asked(handle: int, context: list[int]) -> NodeQuery:
    return NodeQuery(handle, context, (), (), (ROOT,))


def test_long_contexts_are_read_in_forwards_of_bounded_size(
    llama: LoadedModel, llama_path: Path
) -> None:
    network = Counted(llama.network)
    model = DraftNetwork(network)
    contexts = [[5 + (n * n + place) % 300 for n in range(240)] for place in range(4)]
    queries = [asked(model.open(), context) for context in contexts]
    answers = model.candidates(queries, width=3)
    assert max(network.fresh) <= MOST_READ
    assert sum(network.fresh) == 4 * 240  # every token once
    for answer, context in zip(answers, contexts, strict=True):
        check(answer, 0, llama_path, context)


@settings(deadline=None, max_examples=10)
@given(ends=st.lists(st.integers(1, 120), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_a_context_read_in_parts_is_as_one_read_at_once(
    llama: LoadedModel, llama_path: Path, ends: list[int], seed: int
) -> None:
    network = Counted(llama.network)
    model = DraftNetwork(network)
    handle, context = model.open(), [5 + (n * n + seed) % 300 for n in range(121)]
    for end in sorted(ends):
        model.read(handle, context, end)
    [answer] = model.candidates([asked(handle, context)], width=3)
    check(answer, 0, llama_path, context)
    assert sum(network.fresh) <= 121 + len(set(ends))  # the newest row may be read again


def test_rows_do_not_add_up_over_drafts_for_one_context(
    llama: LoadedModel, llama_path: Path
) -> None:
    network = Counted(llama.network)
    model = DraftNetwork(network)
    handle, context = model.open(), list(range(5, 25))
    for _ in range(30):
        [root] = model.candidates([asked(handle, context)], width=3)
        check(root, 0, llama_path, context)
        below = NodeQuery(handle, context, (9, 10), (ROOT, ROOT), (0, 1))
        [answer] = model.candidates([below], width=3)
        check(answer, 1, llama_path, [*context, 10])
    assert max(network.held) <= len(context) + 2


def test_tokens_that_only_one_of_two_models_has_are_no_error(llama: LoadedModel) -> None:
    model = DraftNetwork(llama.network, width=100, vocabulary=50)
    context = [5, 6, 310, 7]
    query = NodeQuery(model.open(), context, (305,), (ROOT,), (ROOT, 0))
    [answer] = model.candidates([query], width=60)
    assert answer.tokens.shape == (2, 50)
    assert answer.tokens.max() < 50
    [other] = model.candidates([asked(model.open(), [5, 6, 0, 7])], width=60)
    np.testing.assert_array_equal(answer.tokens[0], other.tokens[0])


def test_a_freed_slot_is_used_again(llama: LoadedModel) -> None:
    model = DraftNetwork(llama.network)
    first, second = model.open(), model.open()
    model.close(first)
    third = model.open()
    queries = [NodeQuery(handle, [5, 6], (), (), (ROOT,)) for handle in (second, third)]
    answers = model.candidates(queries, width=2)
    np.testing.assert_array_equal(answers[0].tokens, answers[1].tokens)
    assert model.open_handles == 2
