"""Draft with a smaller model of the same vocabulary, drawing children with the target's noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drafting.merge import likeliest, subtree
from drafting.source import Candidates, DraftModel, DraftRequest, DraftSession, NodeQuery
from drafting.tree import EMPTY, ROOT, DraftTree

_BRANCHES: Final = 4  # children of one node
_FRONTIER: Final = 4  # nodes of one level that are expanded
_GREEDY_WIDTH: Final = 8  # tokens asked of the model for each node at temperature 0
_SAMPLED_WIDTH: Final = 48  # and above it, where noise may lift an unlikely token
MAX_LEVELS: Final = 8
"""Forwards of the draft model for one draft."""
_MIN_PATH_PROB: Final = 0.05


class ModelAsk(NamedTuple):
    """One request that wants a draft at this step."""

    session: DraftSession  # opened by the drafter that is asked
    context: Sequence[int]
    max_nodes: int
    levels: int = MAX_LEVELS  # forwards of the draft model at most


@dataclass(slots=True)
class _Growth:
    """A tree while it grows; nodes are only ever added, so that the model may cache their state."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    path_prob: list[float] = field(default_factory=list)
    frontier: list[int] = field(default_factory=lambda: [ROOT])
    depth: int = 0  # of the frontier

    def grow(self, parent: int, token: int, confidence: float) -> int:
        """Add a node and return its index."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.confidence.append(confidence)
        self.path_prob.append(confidence * (1.0 if parent == ROOT else self.path_prob[parent]))
        return len(self.tokens) - 1

    def cut(self, max_nodes: int, source: str) -> DraftTree:
        """Its ``max_nodes`` likeliest nodes."""
        names = (frozenset((source,)),) * len(self.tokens)
        whole = DraftTree(tuple(self.tokens), tuple(self.parents), names, tuple(self.confidence))
        if len(whole) <= max_nodes:
            return whole
        return subtree(whole, likeliest(self.path_prob, max_nodes))


class ModelSession:
    """One request in the draft model; its state there is reserved at the first draft."""

    def __init__(self, drafter: ModelDrafter, request: DraftRequest) -> None:
        self.request = request
        self._drafter = drafter
        self._handle: int | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether it proposes no more."""
        return self._closed

    def handle(self) -> int:
        """The model's name for this request's state."""
        if self._handle is None:
            self._handle = self._drafter.model.open()
        return self._handle

    def propose(self, context: Sequence[int], *, max_nodes: int) -> DraftTree:
        """Draft for this request alone."""
        return self._drafter.propose_batch([ModelAsk(self, context, max_nodes)])[0]

    def close(self) -> None:
        """Free the model's state."""
        self._closed = True
        if self._handle is not None:
            self._drafter.model.close(self._handle)
            self._handle = None


class ModelDrafter:
    """Source "draft_model"; a batch of requests is drafted with one forward for each tree level."""

    def __init__(
        self,
        model: DraftModel,
        *,
        name: str = "draft_model",
        min_path_prob: float = _MIN_PATH_PROB,
    ) -> None:
        """``min_path_prob``: nodes whose claimed path probability is lower are not expanded."""
        self.name = name
        self.model = model
        self._min_path_prob = min_path_prob

    def open(self, request: DraftRequest) -> DraftSession:
        """Begin a request."""
        return ModelSession(self, request)

    def propose_batch(self, asks: Sequence[ModelAsk]) -> list[DraftTree]:
        """One tree for each ask, in order; at most the largest ``levels`` forwards in all."""
        growths = [_Growth() for _ in asks]
        live = [place for place, ask in enumerate(asks) if _wants(ask)]
        while live:
            self._expand([(asks[place], growths[place]) for place in live])
            live = [place for place in live if self._goes_on(asks[place], growths[place])]
        return [
            growth.cut(ask.max_nodes, self.name) if growth.tokens else EMPTY
            for ask, growth in zip(asks, growths, strict=True)
        ]

    def _expand(self, asked: Sequence[tuple[ModelAsk, _Growth]]) -> None:
        """Grow every tree by one level: one forward of the draft model."""
        queries = [
            NodeQuery(
                _session(ask).handle(),
                ask.context,
                tuple(growth.tokens),
                tuple(growth.parents),
                tuple(growth.frontier),
            )
            for ask, growth in asked
        ]
        sampled = any(_session(ask).request.noise is not None for ask, _ in asked)
        width = _SAMPLED_WIDTH if sampled else _GREEDY_WIDTH
        answers = self.model.candidates(queries, width=width)
        for (ask, growth), answer in zip(asked, answers, strict=True):
            _add_level(growth, answer, _scores(ask, growth, answer))

    def _goes_on(self, ask: ModelAsk, growth: _Growth) -> bool:
        """Choose the next frontier; none, when nothing likely enough is left to expand."""
        if growth.depth >= ask.levels:
            return False
        kept = set(likeliest(growth.path_prob, ask.max_nodes))
        worth = [
            node
            for node in growth.frontier
            if node in kept and growth.path_prob[node] >= self._min_path_prob
        ]
        growth.frontier = sorted(sorted(worth, key=lambda n: -growth.path_prob[n])[:_FRONTIER])
        return bool(growth.frontier)


def _session(ask: ModelAsk) -> ModelSession:
    assert isinstance(ask.session, ModelSession)
    return ask.session


def _wants(ask: ModelAsk) -> bool:
    wanted = ask.max_nodes > 0 and ask.levels > 0 and len(ask.context) > 0
    return wanted and not _session(ask).closed


def _scores(ask: ModelAsk, growth: _Growth, answer: Candidates) -> NDArray[np.float64]:
    """What the target's rule would compare, with the draft model's logits: [nodes, width]."""
    request = _session(ask).request
    if request.noise is None:
        return answer.logprobs
    position = len(ask.context) + growth.depth
    noise = request.noise(position, answer.tokens.ravel()).reshape(answer.tokens.shape)
    return answer.logprobs / request.temperature + noise


def _add_level(growth: _Growth, answer: Candidates, scores: NDArray[np.float64]) -> None:
    """Give every node of the frontier its best children; they become the frontier."""
    order = np.argsort(-scores, axis=1, kind="stable")
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    claims = weights / weights.sum(axis=1, keepdims=True)
    grown = []
    for row, parent in enumerate(growth.frontier):
        for column in order[row, :_BRANCHES]:
            token = int(answer.tokens[row, column])
            grown.append(growth.grow(parent, token, float(claims[row, column])))
    growth.frontier = grown
    growth.depth += 1
