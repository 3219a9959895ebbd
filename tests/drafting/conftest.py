"""Draft models that need no network, and noise that needs no target."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from drafting.cost import Load, Pace, StepCost
from drafting.mix import Ask, DraftControl, Drafting
from drafting.model_draft import ModelDrafter
from drafting.planner import Planner
from drafting.source import Candidates, DraftRequest, NodeQuery
from drafting.tree import ROOT


class TableModel:
    """A draft model whose next-token logits are a fixed arbitrary function of the last token."""

    def __init__(self, vocab: int = 50, *, scale: float = 2.0) -> None:
        self.vocab = vocab
        self.scale = scale
        self.live: set[int] = set()
        self.opened = 0
        self.forwards: list[list[NodeQuery]] = []
        self.known: dict[int, int] = {}  # tokens read, by handle
        self.reads: list[int] = []  # rows of texts that each forward reads

    def open(self) -> int:
        self.opened += 1
        self.live.add(self.opened)
        return self.opened

    def close(self, handle: int) -> None:
        self.live.remove(handle)

    def logprobs(self, last: int) -> np.ndarray:
        logits = np.random.default_rng(last).normal(0, self.scale, self.vocab)
        return logits - np.log(np.exp(logits).sum())

    def read(self, handle: int, context: Sequence[int], end: int) -> None:
        assert handle in self.live
        self.reads.append(max(end - self.known.get(handle, 0), 0))
        self.known[handle] = end

    def candidates(self, queries: Sequence[NodeQuery], *, width: int) -> list[Candidates]:
        self.forwards.append(list(queries))
        ends = {query.handle: len(query.context) - 1 for query in queries}
        self.reads.append(sum(max(n - self.known.get(h, 0), 0) for h, n in ends.items()))
        self.known |= ends
        return [self._answer(query, width) for query in queries]

    def _answer(self, query: NodeQuery, width: int) -> Candidates:
        assert query.handle in self.live
        last = [query.context[-1] if n == ROOT else query.tree_tokens[n] for n in query.nodes]
        rows = np.stack([self.logprobs(token) for token in last])
        tokens = np.argsort(-rows, axis=1, kind="stable")[:, :width]
        return Candidates(tokens, np.take_along_axis(rows, tokens, axis=1))


@pytest.fixture
def table_model() -> TableModel:
    return TableModel()


@pytest.fixture
def sure_model() -> TableModel:
    """One whose likeliest token leaves the others little."""
    return TableModel(scale=8.0)


def some_noise(position: int, tokens: np.ndarray) -> np.ndarray:
    """Gumbel noise of a fixed seed."""
    uniform = np.random.default_rng(position).random(1000)
    return -np.log(-np.log(uniform))[tokens]


@pytest.fixture
def noise():
    return some_noise


class Machine:
    """A server whose every forward takes exactly as long as its load says, on a clock of its own.

    The target's text is a long walk without repeats; the draft model knows each next token with
    probability ``skill`` and says so as surely.
    """

    TARGET = StepCost(
        [(1, 1.2), (2, 1.35), (4, 1.6), (8, 2.2), (16, 3.3), (32, 5.0), (64, 9.0), (128, 17.0)],
        per_request=0.15,
    )
    DRAFT = StepCost([(1, 0.35), (4, 0.45), (8, 0.6), (16, 0.85), (64, 2.2)], per_request=0.03)

    def __init__(self, *, believed_target=None, believed_draft=None, skill=0.97) -> None:
        self.now = 0.0
        self.busy = 1.0  # how much slower than alone
        self.skill = skill
        self.forwards = 0
        pace = Pace()
        self.cost = self._copy(believed_target or self.TARGET, pace)
        draft_cost = self._copy(believed_draft or self.DRAFT, pace)
        self.model = ModelDrafter(self, cost=draft_cost)
        self.drafting = Drafting([self.model], Planner(self.cost), clock=lambda: self.now)
        self._handles = itertools.count()
        self._read: dict[int, int] = {}

    @staticmethod
    def _copy(cost, pace):
        parts = dict(zip(("per_request", "per_context", "per_pair"), cost._units, strict=True))
        return StepCost([(r, cost._curve(r)) for r in (1, 2, 4, 8, 16, 32, 64, 128)], **parts,
                        pace=pace)  # fmt: skip

    @staticmethod
    def next(token: int) -> int:
        return (token * 48271 + 11) % 2147483647

    def open(self) -> int:
        return next(self._handles)

    def close(self, handle: int) -> None:
        pass

    def read(self, handle, context, end):
        self.forwards += 1
        rows = end - self._read.get(handle, 0)
        self.now += self.busy * self.DRAFT(rows, 1)
        self._read[handle] = end

    def candidates(self, queries, *, width):
        self.forwards += 1
        rows = sum(len(query.nodes) + self._unread(query) for query in queries)
        self.now += self.busy * self.DRAFT(rows, len(queries))
        return [self._answer(query) for query in queries]

    def _unread(self, query) -> int:
        """Tokens to be read before the newest one, drafts that came true left out."""
        unread = max(len(query.context) - 1 - self._read.get(query.handle, 0), 0)
        levels = 0 if query.nodes == (ROOT,) else len(query.tree_tokens)
        self._read[query.handle] = len(query.context) + levels
        return unread

    def _answer(self, query):
        last = [query.context[-1] if n == ROOT else query.tree_tokens[n] for n in query.nodes]
        right = [self.next(token) for token in last]
        told = [token if token % 1000 < 1000 * self.skill else token + 1 for token in right]
        tokens = np.array([[token, token + 7] for token in told])
        return Candidates(tokens, np.log([[0.97, 0.01]] * len(told)))

    def serve(self, modes, tokens=100, *, start=None):
        """Decode ``tokens`` of one request for each of ``modes`` at once.

        Seconds, and tokens accepted for each step of a request that may draft.
        """
        texts = [[n + 1 if start is None else start + n] for n in range(len(modes))]
        sessions = [
            self.drafting.open(DraftRequest(prompt=tuple(text)), DraftControl(mode=mode))
            for text, mode in zip(texts, modes, strict=True)
        ]
        began, steps, accepted = self.now, 0, 0
        while any(len(text) <= tokens for text in texts):
            running = [n for n, text in enumerate(texts) if len(text) <= tokens]
            drafting = [n for n in running if modes[n] != "off"]
            asks = [Ask(sessions[n], texts[n], 32, tokens - len(texts[n])) for n in drafting]
            other = len(running) - len(asks)
            trees = self.drafting.propose(asks, other_tokens=other) if asks else []
            rows = len(running) + sum(len(tree) for tree in trees)
            self._forward(rows, len(running))
            for n in set(running) - set(drafting):
                texts[n].append(self.next(texts[n][-1]))
            for n, tree in zip(drafting, trees, strict=True):
                path, said = self._walk(tree, texts[n])
                self.drafting.credit(sessions[n], tree, path, said)
                texts[n] += said
                steps, accepted = steps + 1, accepted + len(path)
        for session in sessions:
            session.close()
        return self.now - began, accepted / max(steps, 1)

    def _forward(self, rows: int, requests: int) -> None:
        seconds = self.busy * self.TARGET(rows, requests)
        self.now += seconds
        self.cost.observe(Load(rows, requests), seconds)

    def _walk(self, tree, text):
        place = {(p, t): n for n, (p, t) in enumerate(zip(tree.parents, tree.tokens, strict=True))}
        node, path, said = ROOT, [], [self.next(text[-1])]
        while (node := place.get((node, said[-1]))) is not None:
            path.append(node)
            said.append(self.next(said[-1]))
        return path, said


@pytest.fixture
def machine():
    return Machine
