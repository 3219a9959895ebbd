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
from verifier.draft_model import DraftNetwork
from verifier.loading import LoadedModel

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


def test_a_freed_slot_is_used_again(llama: LoadedModel) -> None:
    model = DraftNetwork(llama.network)
    first, second = model.open(), model.open()
    model.close(first)
    third = model.open()
    queries = [NodeQuery(handle, [5, 6], (), (), (ROOT,)) for handle in (second, third)]
    answers = model.candidates(queries, width=2)
    np.testing.assert_array_equal(answers[0].tokens, answers[1].tokens)
    assert model.open_handles == 2
