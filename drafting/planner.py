"""How many draft nodes each request gets, so that speculation never costs more than it saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from drafting.calibration import Calibration, Odds, Outlook, learn, node_probs
from drafting.cost import StepCost
from drafting.merge import subtree
from drafting.tree import ROOT, DraftTree

WORTH: Final = 1.02
"""Tokens per second must rise by this factor before anything is drafted."""
_SUREST_NODE: Final = 0.95  # the best a draft can hope for when only the load is known
_DEEPEST: Final = 8  # and as deep
_PUT_BY: Final = 4.0  # steps whose time may be put by at most
_TRIED: Final = 0.007  # of its time a model spends on trying drafts it does not believe in


class Batch(NamedTuple):
    """The forward that is being planned, before any draft."""

    requests: int
    other_rows: int = 0  # prefill chunks beside them
    context: float = 0.0  # committed tokens of all the requests together

    @property
    def rows(self) -> int:
        """Rows without drafts: one for each request, and the others."""
        return self.requests + self.other_rows

    @property
    def mean_context(self) -> float:
        """Of one request."""
        return self.context / self.requests if self.requests else 0.0


class Scored(NamedTuple):
    """A proposal and the calibrated probability of reaching each of its nodes."""

    tree: DraftTree
    path_probs: Sequence[float]


class Planner:
    """Shares draft nodes across the batch where they are expected to save time.

    Deterministic: what it answers depends on nothing but what it was given and has observed.
    """

    def __init__(self, cost: StepCost, *, max_nodes: int = 32) -> None:
        """``cost``: steps of the target; ``max_nodes``: of one request."""
        self.cost = cost
        self.max_nodes = max_nodes
        self.calibration = Calibration()
        self._allowance = 0.0  # seconds that may be spent on a trial

    def base_seconds(self, batch: Batch) -> float:
        """Of a step without drafts, and without its other rows: these must be paid in any case."""
        context = batch.context
        return self.cost(batch.requests, batch.requests, context, context)

    def worthwhile(self, batch: Batch) -> bool:
        """Whether even nearly sure drafts would pay at this load; if not, none need be made."""
        base, gain, sure = self.base_seconds(batch), 0.0, 1.0
        for depth in range(1, _DEEPEST + 1):
            sure *= _SUREST_NODE
            gain += sure
            more = self.cost.added(batch.rows, depth * batch.requests, batch.mean_context)
            if (1.0 + gain) * base > WORTH * (base + more):
                return True
        return False

    def odds(self, outlook: Outlook) -> Odds:
        """Calibrated rates of a request that has ``outlook``."""
        return Odds(self.calibration, outlook)

    def score(self, tree: DraftTree, outlook: Outlook) -> Scored:
        """What every node of ``tree`` is worth in a request that has ``outlook``."""
        path_probs: list[float] = []
        probs = node_probs(tree, self.calibration, outlook)
        for parent, prob in zip(tree.parents, probs, strict=True):
            path_probs.append(prob if parent == ROOT else prob * path_probs[parent])
        return Scored(tree, path_probs)

    def select(self, proposals: Sequence[Scored], batch: Batch) -> list[DraftTree]:
        """Proposals cut down to the nodes that raise the batch's tokens per second the most."""
        reaches = [scored.path_probs for scored in proposals]
        kept = self.share_out(reaches, batch, [self.max_nodes] * len(proposals))
        return [
            scored.tree if len(nodes) == len(scored.tree) else subtree(scored.tree, nodes)
            for scored, nodes in zip(proposals, kept, strict=True)
        ]

    def share_out(
        self, reaches: Sequence[Sequence[float]], batch: Batch, most: Sequence[int]
    ) -> list[list[int]]:
        """Nodes to verify of each request's tree, ascending, at most its number in ``most``.

        ``reaches``: P(node reached) of every node of every tree.
        """
        ranked = sorted(
            (-reach, request, node)
            for request, own in enumerate(reaches)
            for node, reach in enumerate(own)
        )
        kept: list[list[int]] = [[] for _ in reaches]
        for _, request, node in ranked[: self.best_count([-r for r, _, _ in ranked], batch)]:
            kept[request].append(node)
        return [sorted(nodes[:room]) for nodes, room in zip(kept, most, strict=True)]

    def best_count(self, probs: Sequence[float], batch: Batch) -> int:
        """How many of the nodes, likeliest first, give the most tokens per second."""
        if not probs:
            return 0
        base = self.base_seconds(batch)
        growth = self.cost.growth(batch.rows, len(probs), batch.mean_context)
        tokens = float(batch.requests)
        best, best_speed = 0, WORTH * tokens / base
        for count, prob in enumerate(probs, start=1):
            tokens += prob
            speed = tokens / (base + growth[count])
            if speed > best_speed:
                best, best_speed = count, speed
        return best

    def learn(self, tree: DraftTree, tokens: Sequence[int], outlook: Outlook) -> None:
        """Learn from the tokens a request emitted what its proposal, verified or not, was worth."""
        learn(tree, tokens, self.calibration, outlook)

    def earn_trial(self, batch: Batch) -> None:
        """Put by a small share of the step's time for trials."""
        base = self.base_seconds(batch)
        self._allowance = min(self._allowance + _TRIED * base, _PUT_BY * base)

    def affords_trial(self, seconds: float) -> bool:
        """Whether enough was put by for a trial of ``seconds``."""
        return self._allowance >= seconds

    def spend(self, seconds: float) -> None:
        """Take what a trial costs; it may cost more than there is, then the next one waits."""
        self._allowance -= seconds
