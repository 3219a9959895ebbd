"""A small model that drafts for a larger one: remembers contexts, evaluates only new tree nodes."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drafting.source import Candidates, NodeQuery
from drafting.tree import ROOT
from kernels.commit import Accepted, commit_rows
from kernels.tree_attention import Rows
from verifier.network import Network
from verifier.rows import ContextRows, ragged

MOST_READ: Final = 256
"""Rows of contexts one forward reads at most; longer ones are read in several."""


@dataclass(slots=True)
class _State:
    """One request: the rows its slot holds, of context and drafts alike, parents before children.

    As long as no draft branches, row n carries the text's n-th token, and what comes true need not
    be moved.
    """

    slot: int
    tokens: list[int] = field(default_factory=list)  # by row
    parents: list[int] = field(default_factory=list)  # by row; row - 1 but where a draft branches
    context: int = 0  # tokens of the context the rows were computed for
    root: int = -1  # row of the context's last token
    rows: dict[int, int] = field(default_factory=dict)  # tree node: its row


class _Fresh(NamedTuple):
    """What one query adds to a forward."""

    rows: Rows
    tokens: list[int]
    wanted: list[int]  # asked nodes, as indices into the fresh rows


class DraftNetwork:
    """Satisfies ``drafting.source.DraftModel``. Not thread-safe."""

    def __init__(
        self, network: Network, *, width: int | None = None, vocabulary: int | None = None
    ) -> None:
        """``width``: tokens the model has embeddings for; ``vocabulary``: those its target has.

        Models of one tokenizer are padded to different widths. What the other has not is read as
        token 0, which spoils a guess and no more, and is never proposed.
        """
        self._network = network
        self._width = width
        self._vocabulary = vocabulary
        self._cache = ContextRows(network.cache_shape)
        self._states: dict[int, _State] = {}
        self._free_slots: list[int] = []
        self._next_handle = 0

    @property
    def open_handles(self) -> int:
        """Requests whose state is kept."""
        return len(self._states)

    def open(self) -> int:
        """Reserve per-request state and return its handle."""
        handle = self._next_handle
        self._next_handle += 1
        slot = heapq.heappop(self._free_slots) if self._free_slots else len(self._states)
        self._states[handle] = _State(slot)
        return handle

    def close(self, handle: int) -> None:
        """Free the state behind ``handle``."""
        heapq.heappush(self._free_slots, self._states.pop(handle).slot)
        if not self._states:
            self._free_slots.clear()
            self._cache.release_all()

    @torch.inference_mode()
    def read(self, handle: int, context: Sequence[int], end: int) -> None:
        """Take in ``context`` up to ``end``, in forwards of ``MOST_READ`` rows at most."""
        state = self._states[handle]
        self._settle([state], [context])
        while len(state.tokens) < end:
            self._read_chunk(state, context, min(end, len(state.tokens) + MOST_READ))

    @torch.inference_mode()
    def candidates(self, queries: Sequence[NodeQuery], *, width: int) -> Sequence[Candidates]:
        """Answer many requests in one forward; one ``Candidates`` for each query, same order.

        Contexts of which more than ``MOST_READ`` tokens are missing, all together, take more.
        """
        states = [self._states[query.handle] for query in queries]
        for state, query in zip(states, queries, strict=True):
            if ROOT in query.nodes and state.context == len(query.context):
                _begin_again(state)
        self._settle(states, [query.context for query in queries])
        self._catch_up(states, queries)
        order = sorted(range(len(queries)), key=lambda at: self._states[queries[at].handle].slot)
        fresh = [self._fresh(queries[at]) for at in order]
        answers = dict(zip(order, self._run(fresh, width), strict=True))
        return [answers[at] for at in range(len(queries))]

    def _settle(self, states: Sequence[_State], contexts: Sequence[Sequence[int]]) -> None:
        """Where a context grew, keep what the rows already know of it."""
        moved: list[Accepted] = []
        for state, context in zip(states, contexts, strict=True):
            if state.context == len(context):
                continue
            path = _followed(state, context)
            first = next((n for n, row in enumerate(path) if n != row), len(path))
            if first < len(path):
                moved.append(Accepted(state.slot, first, [row - first for row in path[first:]]))
            state.tokens = list(context[: len(path)])
            state.parents = list(range(-1, len(path) - 1))
            state.context = len(path)
            state.rows = {}
        if moved:
            commit_rows(self._cache.kv, moved)

    def _catch_up(self, states: Sequence[_State], queries: Sequence[NodeQuery]) -> None:
        """Read until what is missing fits one forward, the longest first."""
        missing = {
            place: len(query.context) - state.context
            for place, (state, query) in enumerate(zip(states, queries, strict=True))
        }
        whole = sum(missing.values())
        for place in sorted(missing, key=missing.__getitem__, reverse=True):
            if whole <= MOST_READ:
                return
            state, context = states[place], queries[place].context
            while whole > MOST_READ and state.context < len(context) - 1:
                end = min(len(context) - 1, state.context + MOST_READ)
                whole -= end - state.context
                self._read_chunk(state, context, end)

    def _read_chunk(self, state: _State, context: Sequence[int], end: int) -> None:
        start = len(state.tokens)
        state.tokens += context[start:end]
        state.parents += range(start - 1, end - 1)
        state.context, state.root = end, end - 1
        rows = Rows(state.slot, start, range(-1, end - start - 1), end - start)
        last = end - start - 1  # its logits are of no use, but none at all is no forward
        self._forward([_Fresh(rows, state.tokens[start:], [last])])

    def _fresh(self, query: NodeQuery) -> _Fresh:
        state = self._states[query.handle]
        before = len(state.tokens)
        if state.context != len(query.context):
            self._append_context(state, query.context)
        asked = [self._append_node(state, query, node, before) for node in query.nodes]
        shared = _shared(state, before)
        parents = [max(parent - shared, -1) for parent in state.parents[shared:]]
        rows = Rows(state.slot, shared, parents, len(state.tokens) - before)
        return _Fresh(rows, state.tokens[before:], [row - before for row in asked])

    def _append_context(self, state: _State, context: Sequence[int]) -> None:
        known = len(state.tokens)
        state.tokens += context[known:]
        state.parents += range(known - 1, len(context) - 1)
        state.context = len(context)
        state.root = len(context) - 1

    def _append_node(self, state: _State, query: NodeQuery, node: int, before: int) -> int:
        """Row of an asked node, computed in this forward."""
        if node == ROOT:
            return state.root
        row = _append(state, query.tree_tokens[node], self._parent_row(state, query, node))
        state.rows[node] = row
        return row

    def _parent_row(self, state: _State, query: NodeQuery, node: int) -> int:
        parent = query.tree_parents[node]
        if parent == ROOT:
            return state.root
        known = state.rows.get(parent)
        if known is not None and state.tokens[known] == query.tree_tokens[parent]:
            return known
        row = _append(state, query.tree_tokens[parent], self._parent_row(state, query, parent))
        state.rows[parent] = row
        return row

    def _run(self, fresh: Sequence[_Fresh], width: int) -> list[Candidates]:
        if not fresh:
            return []
        logits = self._forward(fresh)[:, : self._vocabulary]
        scores = torch.log_softmax(logits, dim=-1).topk(min(width, logits.shape[1]), dim=-1)
        tokens, logprobs = scores.indices.cpu(), scores.values.cpu()
        return _split(tokens.numpy(), logprobs.double().numpy(), fresh)

    def _forward(self, fresh: Sequence[_Fresh]) -> Tensor:
        """Logits [N, V] of the wanted rows, item by item."""
        longest = max(item.rows.context + len(item.rows.parents) for item in fresh)
        self._cache.ensure(fresh[-1].rows.slot + 1, longest)
        rows = [item.rows for item in fresh]
        batch = ragged(rows, [self._readable(item.tokens) for item in fresh], self._cache.capacity)
        wanted: list[int] = []
        start = 0
        for item in fresh:
            wanted += (start + row for row in item.wanted)
            start += len(item.tokens)
        return self._network.forward(batch, self._cache, torch.tensor(wanted, dtype=torch.int64))

    def _readable(self, tokens: list[int]) -> list[int]:
        if self._width is None or max(tokens) < self._width:
            return tokens
        return [token if token < self._width else 0 for token in tokens]


def _append(state: _State, token: int, parent: int) -> int:
    state.tokens.append(token)
    state.parents.append(parent)
    return len(state.tokens) - 1


def _begin_again(state: _State) -> None:
    """Another draft for the same context: the one before goes, so that rows never add up.

    The root goes with it, for its logits are wanted anew.
    """
    del state.tokens[state.root :], state.parents[state.root :]
    state.context, state.root = state.root, -1
    state.rows = {}


def _followed(state: _State, context: Sequence[int]) -> list[int]:
    """Rows along ``context``; its last token is left out, so that its logits are fresh."""
    known = max(min(state.context, len(context)) - 1, 0)
    path = list(range(known))
    children = {
        (parent, token): row
        for row, (parent, token) in enumerate(
            zip(state.parents[known:], state.tokens[known:], strict=True), start=known
        )
    }
    row = known - 1
    for token in context[known : len(context) - 1]:
        following = children.get((row, token))
        if following is None:
            break
        row = following
        path.append(row)
    return path


def _shared(state: _State, before: int) -> int:
    """Leading rows that every row from ``before`` on has before it: they need no mask."""
    shared = before
    parents = state.parents
    for row in range(state.context, len(parents)):
        if parents[row] != row - 1:
            shared = min(shared, parents[row] + 1)
    return shared


def _split(
    tokens: np.ndarray[tuple[int, int], np.dtype[np.int64]],
    logprobs: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    fresh: Sequence[_Fresh],
) -> list[Candidates]:
    answers: list[Candidates] = []
    start = 0
    for item in fresh:
        end = start + len(item.wanted)
        answers.append(Candidates(tokens[start:end], logprobs[start:end]))
        start = end
    return answers
