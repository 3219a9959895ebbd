"""How often drafted tokens are accepted, learned while running, for all requests and for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from drafting.merge import UNCLAIMED, claims
from drafting.tree import ROOT, DraftTree

_BUCKETS: Final = 8  # of claimed confidence
_PRIOR: Final = 4.0  # observations the claim itself is worth
_MEMORY: Final = 0.995  # weight left to an observation by the next one of its bucket
_REQUEST_PRIOR: Final = 3.0  # accepted tokens the common rate is worth against a request's own
_REQUEST_MEMORY: Final = 0.9
_SUREST: Final = 0.98  # nothing is certain

Sources = frozenset[str]


class Calibration:
    """P(node accepted | its parent accepted), by who proposed it and how sure they were."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Sources, int], tuple[float, float]] = {}  # accepted, observed

    def rate(self, sources: Sources, bucket: int) -> float:
        """Calibrated probability; before evidence, the claim or what single sources are worth."""
        accepted, observed = self._seen.get((sources, bucket), (0.0, 0.0))
        prior = (bucket + 0.5) / _BUCKETS
        if len(sources) > 1 and observed < _PRIOR:
            prior = max(self.rate(frozenset((name,)), bucket) for name in sources)
        return min((accepted + _PRIOR * prior) / (observed + _PRIOR), _SUREST)

    def observe(self, sources: Sources, bucket: int, accepted: bool) -> None:
        """Learn one outcome of a node whose parent was accepted."""
        key = (sources, bucket)
        hits, observed = self._seen.get(key, (0.0, 0.0))
        self._seen[key] = (hits * _MEMORY + accepted, observed * _MEMORY + 1.0)


class Outlook:
    """How a single request does against the common rate; a text may repeat itself or never do."""

    def __init__(self) -> None:
        self._seen: dict[Sources, tuple[float, float]] = {}  # accepted, expected

    def factor(self, sources: Sources) -> float:
        """By what to multiply the common rate of ``sources``."""
        accepted, expected = self._seen.get(sources, (0.0, 0.0))
        return (accepted + _REQUEST_PRIOR) / (expected + _REQUEST_PRIOR)

    def observe(self, sources: Sources, expected: float, accepted: bool) -> None:
        """Learn one outcome; ``expected`` is the common rate it had."""
        hits, awaited = self._seen.get(sources, (0.0, 0.0))
        left = _REQUEST_MEMORY
        self._seen[sources] = (hits * left + accepted, awaited * left + expected)


def node_probs(tree: DraftTree, calibration: Calibration, outlook: Outlook) -> list[float]:
    """Calibrated P(node accepted | parent accepted) of every node; siblings add up to 1 at most."""
    known: dict[tuple[Sources, int], float] = {}  # few nodes differ in what they rest on
    probs: list[float] = []
    totals: dict[int, float] = {}
    for names, claim, parent in zip(tree.sources, claims(tree), tree.parents, strict=True):
        key = (names, bucket_of(claim))
        prob = known.get(key)
        if prob is None:
            prob = min(calibration.rate(*key) * outlook.factor(names), _SUREST)
            known[key] = prob
        probs.append(prob)
        totals[parent] = totals.get(parent, 0.0) + prob
    return [
        prob / max(totals[parent], 1.0) for parent, prob in zip(tree.parents, probs, strict=True)
    ]


def learn(
    tree: DraftTree, tokens: Sequence[int], calibration: Calibration, outlook: Outlook
) -> None:
    """Score every node of ``tree`` whose fate the emitted ``tokens`` reveal, verified or not."""
    node = ROOT
    for token in tokens:
        following = None
        for child in children(tree, node):
            hit = tree.tokens[child] == token
            _score(tree, child, hit, calibration, outlook)
            following = child if hit else following
        if following is None:
            return
        node = following


def _score(
    tree: DraftTree, node: int, hit: bool, calibration: Calibration, outlook: Outlook
) -> None:
    names = tree.sources[node]
    bucket = bucket_of(tree.confidence[node] if tree.confidence else UNCLAIMED)
    outlook.observe(names, calibration.rate(names, bucket), hit)
    calibration.observe(names, bucket, hit)


def children(tree: DraftTree, node: int) -> list[int]:
    """Nodes whose parent is ``node``; they all come after it."""
    parents = tree.parents
    return [child for child in range(node + 1, len(parents)) if parents[child] == node]


def bucket_of(claim: float) -> int:
    """Which claims are calibrated together."""
    return min(int(claim * _BUCKETS), _BUCKETS - 1)
