"""Draft with a smaller model of the same vocabulary, drawing children with the target's noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import exp
from typing import Final, NamedTuple

import numpy as np

from drafting.calibration import HitRate
from drafting.cost import StepCost
from drafting.growth import Growth
from drafting.merge import likeliest
from drafting.source import COLDEST, Candidates, DraftModel, DraftRequest, DraftSession, NodeQuery
from drafting.tree import EMPTY, ROOT, DraftTree

_BRANCHES: Final = 4  # children of one node
_FRONTIER: Final = 4  # nodes of one level that are expanded where nobody counts the cost
_GREEDY_WIDTH: Final = 8  # tokens asked of the model for each node at temperature 0
_SAMPLED_WIDTH: Final = 48  # and above it, where noise may lift an unlikely token
MAX_LEVELS: Final = 16
"""Forwards of the draft model for one draft."""
_LARGEST: Final = 4  # times as many nodes as may be verified are proposed, and a level
READ_ROWS: Final = 256
"""Rows of texts a draft model reads in one step at most, over all requests."""
_LEAST_REACH: Final = 0.05
_LEAST_CHILD: Final = 0.01  # reach of a child, beside the best one, that is still worth a node


@dataclass(slots=True)
class ModelAsk:
    """One request that wants a draft at this step; ``growth`` is what it grows."""

    session: DraftSession  # opened by the drafter that is asked
    context: Sequence[int]
    max_nodes: int
    growth: Growth
    max_depth: int = MAX_LEVELS
    ends: frozenset[int] = frozenset()  # tokens nothing follows
    emitted: int = 0  # tokens of output so far
    hit_rate: float = 1.0  # how often the model's children hold the target's token
    fixed: bool = False  # whether cost is no object
    counted: int = 0  # nodes whose worth is known to who steers
    frontier: Sequence[int] = ()  # nodes to expand next
    grown: Sequence[int] = ()  # nodes the latest level proposed
    expanded: set[int] = field(default_factory=set)

    def expandable(self, node: int) -> bool:
        """Whether the model may say what follows ``node``, and has not."""
        if node in self.expanded:
            return False
        if node == ROOT:
            return self.max_depth > 0
        growth = self.growth
        return growth.depths[node] < self.max_depth and growth.tokens[node] not in self.ends


class Level(NamedTuple):
    """One forward of the draft model."""

    asks: Sequence[ModelAsk]
    rows: int


Steer = Callable[[Sequence[ModelAsk]], Sequence[ModelAsk]]
"""Sets every ask's ``frontier`` for the next level and returns those that have one."""


class ModelSession:
    """One request in the draft model; its state there is reserved at the first draft."""

    def __init__(self, drafter: ModelDrafter, request: DraftRequest) -> None:
        self.request = request
        self._drafter = drafter
        self._handle: int | None = None
        self._read = 0  # tokens of the text whose state the model keeps, if they came true
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

    def follows(self, context: Sequence[int]) -> bool:
        """Whether the model has room behind ``context``; once it has not, it forgets it."""
        if self.room(context) <= 0:
            self.close()
        return not self._closed

    def room(self, context: Sequence[int]) -> int:
        """How deep a draft behind ``context`` may be."""
        longest = self._drafter.longest
        return MAX_LEVELS if longest is None else min(longest - len(context), MAX_LEVELS)

    def pending(self, context: Sequence[int]) -> int:
        """Rows that bring the model up to the end of ``context``."""
        return max(len(context) - self._read, 1)

    def unread(self, context: Sequence[int]) -> int:
        """Rows it has to read before that of the newest token."""
        return self.pending(context) - 1

    def read(self, context: Sequence[int], rows: int) -> int:
        """Let the model read on, by ``rows`` at most; how many they were."""
        start, end = self._read, min(self._read + rows, len(context) - 1)
        self._drafter.model.read(self.handle(), context, end)
        self._read = end
        return end - start

    def note_read(self, tokens: int) -> None:
        """Learn how much of the text the model has seen, drafts included."""
        self._read = tokens

    def propose(self, context: Sequence[int], *, max_nodes: int) -> DraftTree:
        """Draft for this request alone."""
        if not self.follows(context):
            return EMPTY
        depth, ends = self.room(context), self.request.stop_ids
        ask = ModelAsk(self, context, max_nodes, Growth(), depth, ends)
        self._drafter.grow([ask], thorough)
        return ask.growth.cut(likeliest(ask.growth.reach, max(max_nodes, 0)))

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
        cost: StepCost | None = None,
        longest: int | None = None,
        read_rows: int = READ_ROWS,
    ) -> None:
        """``cost``: of the model's forwards; without one it drafts in fixed mode only.

        ``longest``: tokens of the longest text the model takes; ``read_rows``: of texts that it
        may read in one step, over all requests.
        """
        self.name = name
        self.model = model
        self.cost = cost
        self.longest = longest
        self.read_rows = read_rows
        self.hits = HitRate()
        self._names = frozenset((name,))

    def open(self, request: DraftRequest) -> DraftSession:
        """Begin a request."""
        return ModelSession(self, request)

    def grow(
        self, asks: Sequence[ModelAsk], steer: Steer, note: Callable[[Level], None] | None = None
    ) -> None:
        """Grow every ask's tree level by level, as far as ``steer`` goes on.

        ``note`` hears of every forward when it is done.
        """
        live = [ask for ask in asks if _wants(ask)]
        for _ in range(MAX_LEVELS):
            live = list(steer(live)) if live else []
            if not live:
                return
            rows = self._expand(live)
            if note is not None:
                note(Level(live, rows))

    def _expand(self, asks: Sequence[ModelAsk]) -> int:
        """Grow every tree by one level: one forward of the draft model, of so many rows."""
        queries = [_query(ask) for ask in asks]
        sampled = any(session_of(ask).request.noise is not None for ask in asks)
        width = _SAMPLED_WIDTH if sampled else _GREEDY_WIDTH
        answers = self.model.candidates(queries, width=width)
        rows = 0
        for ask, answer in zip(asks, answers, strict=True):
            rows += _rows(ask)
            self._add_level(ask, answer)
        return rows

    def _add_level(self, ask: ModelAsk, answer: Candidates) -> None:
        """Give every node of the frontier its best children."""
        growth = ask.growth
        ask.expanded.update(ask.frontier)
        deepest = max(growth.depths[node] if node != ROOT else 0 for node in ask.frontier)
        session_of(ask).note_read(len(ask.context) + deepest)
        grown: list[int] = []
        for row, parent in enumerate(ask.frontier):
            reach = growth.reached(parent)
            for rank, (token, claim) in enumerate(_ranked(ask, answer, row, parent)):
                if rank and reach * claim < _LEAST_CHILD:
                    break
                grown.append(growth.add(parent, token, self._names, claim))
        ask.grown = grown


def thorough(asks: Sequence[ModelAsk]) -> Sequence[ModelAsk]:
    """Expand whatever is likely enough, at any cost."""
    for ask in asks:
        ask.frontier = likely(ask)
    return [ask for ask in asks if ask.frontier]


def open_shares(ask: ModelAsk) -> dict[int, float]:
    """What might be expanded next, and P(what comes there is not proposed yet) of each node.

    At first all that others proposed, later what the latest level did. However little a node may
    cost, there are never more of them than may be verified, and they end with a tree that is
    several times as large.
    """
    if len(ask.growth) >= _LARGEST * ask.max_nodes:
        return {}
    nodes = ask.grown if ask.expanded else [ROOT, *range(len(ask.growth))]
    shares = {node: ask.growth.open_share(node) for node in nodes if ask.expandable(node)}
    if len(shares) <= ask.max_nodes:
        return shares
    best = sorted(shares, key=lambda node: (-shares[node], node))
    return {node: shares[node] for node in best[: ask.max_nodes]}


def with_ancestors(ask: ModelAsk, nodes: Sequence[int]) -> list[int]:
    """``nodes``, ascending, with all before them that the model has not read: it reads them first.

    To read a node and to say what follows it is one and the same.
    """
    wanted: set[int] = set()
    for node in nodes:
        while node not in wanted and node not in ask.expanded:
            wanted.add(node)
            if node == ROOT:
                break
            node = ask.growth.parents[node]
    return sorted(wanted)


def likely(ask: ModelAsk) -> list[int]:
    """The next frontier where nobody counts the cost: a few of the nodes that may be kept."""
    kept = frozenset([ROOT, *likeliest(ask.growth.reach, ask.max_nodes)])
    worth = {n: share for n, share in open_shares(ask).items() if share >= _LEAST_REACH}
    best = sorted((node for node in worth if node in kept), key=lambda node: (-worth[node], node))
    return with_ancestors(ask, best[:_FRONTIER])


def session_of(ask: ModelAsk) -> ModelSession:
    """Its session, which this drafter opened."""
    assert isinstance(ask.session, ModelSession)
    return ask.session


def _wants(ask: ModelAsk) -> bool:
    wanted = ask.max_nodes > 0 and ask.max_depth > 0 and len(ask.context) > 0
    return wanted and not session_of(ask).closed


def _query(ask: ModelAsk) -> NodeQuery:
    growth = ask.growth
    return NodeQuery(
        session_of(ask).handle(),
        ask.context,
        tuple(growth.tokens),
        tuple(growth.parents),
        tuple(ask.frontier),
    )


def _rows(ask: ModelAsk) -> int:
    """Rows of the frontier in the forward, those that bring the model up to date among them."""
    fresh = len(ask.frontier)
    return fresh if ROOT not in ask.frontier else fresh - 1 + session_of(ask).pending(ask.context)


def _ranked(ask: ModelAsk, answer: Candidates, row: int, parent: int) -> list[tuple[int, float]]:
    """The best next tokens by the target's own rule, and how sure the model is of each."""
    request = session_of(ask).request
    tokens, logprobs = answer.tokens[row], answer.logprobs[row]
    if not np.isfinite(logprobs[0]):
        return []  # what is not a number says nothing
    if request.noise is None:
        best = zip(tokens[:_BRANCHES].tolist(), logprobs[:_BRANCHES].tolist(), strict=True)
        return [(token, exp(logprob)) for token, logprob in best]
    depth = 0 if parent == ROOT else ask.growth.depths[parent]
    noise = request.noise(len(ask.context) + depth, tokens)
    scores = logprobs / max(request.temperature, COLDEST) + noise
    order = np.argsort(-scores, kind="stable")[:_BRANCHES]
    weights = np.exp(scores - scores[order[0]])
    claims = weights[order] / weights.sum()
    return list(zip(tokens[order].tolist(), claims.tolist(), strict=True))
