"""How many draft nodes each request gets, so that speculation never costs more than it saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drafting.calibration import Calibration, Outlook, learn, node_probs
from drafting.cost import StepCost
from drafting.merge import subtree
from drafting.tree import ROOT, DraftTree

_WORTH: Final = 1.02  # tokens per second must rise by this factor before anything is drafted
_SUREST_NODE: Final = 0.95  # the best a draft can hope for when only the load is known
_LEVELS: Final = (1, 2, 3, 4, 6, 8)  # depths of a model's draft that are weighed
_NODES_A_LEVEL: Final = 2  # nodes of a model's draft that are verified, for each of its levels
_EXTRA_TOKENS: Final = 0.1  # what a model must add to a lookup's draft to be asked
_PROBE_EVERY: Final = 32  # steps without a model's draft before one is tried again
_PROBE_LEVELS: Final = 2
_HIT_RATE: Final = 0.7  # assumed of a draft model before evidence
_HIT_PRIOR: Final = 4.0
_HIT_MEMORY: Final = 0.98


class Batch(NamedTuple):
    """The forward that is being planned, before any draft."""

    requests: int
    other_rows: int = 0  # prefill chunks beside them

    @property
    def rows(self) -> int:
        """Rows without drafts: one for each request, and the others."""
        return self.requests + self.other_rows


class Scored(NamedTuple):
    """A proposal and the calibrated probability of reaching each of its nodes."""

    tree: DraftTree
    path_probs: list[float]


class ModelPlan(NamedTuple):
    """Which of the asking requests a draft model should draft for, and how deep."""

    members: tuple[int, ...] = ()
    levels: int = 0


class HitRate:
    """How often a draft model's children of a node hold the target's token."""

    def __init__(self, expected: float = _HIT_RATE) -> None:
        """``expected``: the rate assumed before evidence."""
        self._hits = expected * _HIT_PRIOR
        self._tries = _HIT_PRIOR

    @property
    def rate(self) -> float:
        """Estimated probability."""
        return self._hits / self._tries

    def observe(self, hit: bool) -> None:
        """Learn one outcome."""
        self._hits = self._hits * _HIT_MEMORY + hit
        self._tries = self._tries * _HIT_MEMORY + 1.0


class Planner:
    """Shares draft nodes across the batch where they are expected to save time.

    Deterministic: what it answers depends on nothing but what it was given and has observed.
    """

    def __init__(
        self, cost: StepCost, *, draft_cost: StepCost | None = None, max_nodes: int = 32
    ) -> None:
        """``cost``: forwards of the target; ``draft_cost``: of the draft model, None without one;
        ``max_nodes``: of one request.
        """
        self.cost = cost
        self.draft_cost = draft_cost
        self.max_nodes = max_nodes
        self.calibration = Calibration()
        self.hits = HitRate()
        self._since_model = 0

    def worthwhile(self, batch: Batch) -> bool:
        """Whether even a nearly sure draft would pay at this load; if not, none need be made."""
        requests = batch.requests
        drafted = self._speed(requests * _SUREST_NODE, requests, 0.0, batch)
        return drafted > _WORTH * self._speed(0.0, 0, 0.0, batch)

    def score(self, tree: DraftTree, outlook: Outlook) -> Scored:
        """What every node of ``tree`` is worth in a request that has ``outlook``."""
        path_probs: list[float] = []
        probs = node_probs(tree, self.calibration, outlook)
        for parent, prob in zip(tree.parents, probs, strict=True):
            path_probs.append(prob if parent == ROOT else prob * path_probs[parent])
        return Scored(tree, path_probs)

    def select(self, proposals: Sequence[Scored], batch: Batch) -> list[DraftTree]:
        """Proposals cut down to the nodes that raise the batch's tokens per second the most."""
        ranked = sorted(
            (-prob, request, node)
            for request, scored in enumerate(proposals)
            for node, prob in enumerate(scored.path_probs)
        )
        count = self._best_count([-prob for prob, _, _ in ranked], batch)
        kept: list[list[int]] = [[] for _ in proposals]
        for _, request, node in ranked[:count]:
            kept[request].append(node)
        return [
            scored.tree if len(nodes) == len(scored.tree) else subtree(scored.tree, sorted(nodes))
            for scored, nodes in zip(proposals, kept, strict=True)
        ]

    def plan_model(
        self, drafts: Sequence[Scored], rates: Sequence[float], batch: Batch
    ) -> ModelPlan:
        """Whether to run the draft model, given the cheaper ``drafts`` of each request so far.

        ``rates``: the model's hit rate in each request.
        """
        if self.draft_cost is None or not drafts:
            return ModelPlan()
        ranked = sorted((prob for draft in drafts for prob in draft.path_probs), reverse=True)
        nodes = self._best_count(ranked, batch)
        least = ranked[nodes - 1] if nodes else 2.0  # more than any probability
        gains = [sum(prob for prob in draft.path_probs if prob >= least) for draft in drafts]
        best, best_speed = ModelPlan(), _WORTH * self._speed(sum(ranked[:nodes]), nodes, 0.0, batch)
        for levels in _LEVELS:
            hoped = [_hoped(rate, levels) for rate in rates]
            members = tuple(
                place
                for place, (gain, hope) in enumerate(zip(gains, hoped, strict=True))
                if hope > gain + _EXTRA_TOKENS
            )
            more = sum(max(gain, hope) for gain, hope in zip(gains, hoped, strict=True))
            rows = len(members) * _NODES_A_LEVEL
            seconds = levels * self.draft_cost(max(rows, 1))
            speed = self._speed(more, nodes + rows * levels, seconds, batch)
            if members and speed > best_speed:
                best, best_speed = ModelPlan(members, levels), speed
        return best if best.members else self._probe(len(gains))

    def learn(self, tree: DraftTree, tokens: Sequence[int], outlook: Outlook) -> None:
        """Learn from the tokens a request emitted what its proposal, verified or not, was worth."""
        learn(tree, tokens, self.calibration, outlook)

    def _probe(self, requests: int) -> ModelPlan:
        """Now and then ask the model all the same, for one request, so that it can come back."""
        self._since_model += 1
        if self._since_model % _PROBE_EVERY:
            return ModelPlan()
        turn = self._since_model // _PROBE_EVERY
        return ModelPlan((turn % requests,), _PROBE_LEVELS)

    def _speed(self, gain: float, nodes: int, seconds: float, batch: Batch) -> float:
        """Tokens per second of a step with ``nodes`` drafted in ``seconds``, less its other rows.

        Rows of prefill must be paid for in any case; counted in, they would make drafts look cheap.
        """
        return (batch.requests + gain) / (float(self._seconds(batch, nodes)) + seconds)

    def _seconds(self, batch: Batch, nodes: ArrayLike) -> NDArray[np.float64]:
        """Of a step without its other rows, where drafts cost what they do on top of these."""
        on_top = self.cost.many(batch.rows + np.asarray(nodes)) - self.cost(batch.rows)
        return on_top + self.cost(batch.requests)

    def _best_count(self, probs: Sequence[float], batch: Batch) -> int:
        """How many of the nodes, likeliest first, give the most tokens per second."""
        if not probs:
            return 0
        tokens = batch.requests + np.concatenate([[0.0], np.cumsum(probs)])
        speed = tokens / self._seconds(batch, np.arange(len(tokens)))
        best = int(speed.argmax())
        return best if speed[best] > _WORTH * speed[0] else 0


def _hoped(rate: float, levels: int) -> float:
    """Expected accepted tokens of a draft of ``levels`` that holds the right one at ``rate``."""
    return levels if rate >= 1.0 else rate * (1.0 - rate**levels) / (1.0 - rate)
