"""Draft models that need no network, and noise that needs no target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from drafting.source import Candidates, NodeQuery
from drafting.tree import ROOT


class TableModel:
    """A draft model whose next-token logits are a fixed arbitrary function of the last token."""

    def __init__(self, vocab: int = 50, *, scale: float = 2.0) -> None:
        self.vocab = vocab
        self.scale = scale
        self.live: set[int] = set()
        self.opened = 0
        self.forwards: list[list[NodeQuery]] = []

    def open(self) -> int:
        self.opened += 1
        self.live.add(self.opened)
        return self.opened

    def close(self, handle: int) -> None:
        self.live.remove(handle)

    def logprobs(self, last: int) -> np.ndarray:
        logits = np.random.default_rng(last).normal(0, self.scale, self.vocab)
        return logits - np.log(np.exp(logits).sum())

    def candidates(self, queries: Sequence[NodeQuery], *, width: int) -> list[Candidates]:
        self.forwards.append(list(queries))
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
