"""How often drafted tokens are accepted, learned while running, for all requests and for each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from drafting.merge import UNCLAIMED, claims
from drafting.tree import ROOT, DraftTree

_EDGES: Final = (0.02, 0.06, 0.15, 0.3, 0.5, 0.7, 0.85, 0.93, 0.97, 0.99)  # finer where it matters
_MIDDLES: Final = tuple(
    (low + high) / 2 for low, high in zip((0.0, *_EDGES), (*_EDGES, 1.0), strict=True)
)
_PRIOR: Final = 2.0  # observations the claim itself is worth
_MEMORY: Final = 0.99  # weight left to an observation by the next one of its bucket
_REQUEST_PRIOR: Final = 2.0  # accepted tokens the common rate is worth against a request's own
_REQUEST_MEMORY: Final = 0.9
_SUREST: Final = 0.995  # nothing is certain
_HIT_RATE: Final = 0.85  # hoped of a draft model before evidence
_COMMON_HITS: Final = (4.0, 0.98)  # outcomes the expectation is worth, weight left by the next one
_OWN_HITS: Final = (2.0, 0.9)

Sources = frozenset[str]


class Calibration:
    """P(node accepted | its parent accepted), by who proposed it and how sure they were."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Sources, int], tuple[float, float]] = {}  # accepted, observed

    def rate(self, sources: Sources, bucket: int) -> float:
        """Calibrated probability; before evidence, the claim or what single sources are worth."""
        accepted, observed = self._seen.get((sources, bucket), (0.0, 0.0))
        prior = _MIDDLES[bucket]
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
        self._seen: dict[Sources, tuple[float, float, float]] = {}  # accepted, expected, observed

    def applied(self, sources: Sources, rate: float) -> float:
        """The common ``rate`` of ``sources`` as it is in this request.

        Fewer successes than expected scale the chance of success, fewer failures that of failure:
        a few accepted tokens in a row do not make a certainty of what is nearly one.
        """
        accepted, expected, observed = self._seen.get(sources, (0.0, 0.0, 0.0))
        if accepted < expected:
            return rate * (accepted + _REQUEST_PRIOR) / (expected + _REQUEST_PRIOR)
        failed, feared = observed - accepted, observed - expected
        return 1.0 - (1.0 - rate) * (failed + _REQUEST_PRIOR) / (feared + _REQUEST_PRIOR)

    def observe(self, sources: Sources, expected: float, accepted: bool) -> None:
        """Learn one outcome; ``expected`` is the common rate it had."""
        hits, awaited, observed = self._seen.get(sources, (0.0, 0.0, 0.0))
        left = _REQUEST_MEMORY
        self._seen[sources] = (hits * left + accepted, awaited * left + expected,
                               observed * left + 1.0)  # fmt: skip


class HitRate:
    """How often a draft model's children of a node hold the target's token."""

    def __init__(self, common: HitRate | None = None) -> None:
        """``common``: that of all requests, by which one's own is judged before it has shown much;
        None for the common one itself.
        """
        self._common = common
        self._prior, self._memory = _COMMON_HITS if common is None else _OWN_HITS
        self._hits = self._tries = 0.0

    @property
    def rate(self) -> float:
        """Estimated probability."""
        expected = _HIT_RATE if self._common is None else self._common.rate
        return (self._hits + self._prior * expected) / (self._tries + self._prior)

    def observe(self, hit: bool) -> None:
        """Learn one outcome."""
        self._hits = self._hits * self._memory + hit
        self._tries = self._tries * self._memory + 1.0
        if self._common is not None:
            self._common.observe(hit)


class Odds:
    """Calibrated rates of one request during one step; few nodes differ in what they rest on."""

    __slots__ = ("_calibration", "_known", "_outlook")

    def __init__(self, calibration: Calibration, outlook: Outlook) -> None:
        self._calibration = calibration
        self._outlook = outlook
        self._known: dict[tuple[Sources, int], float] = {}

    def __call__(self, sources: Sources, claim: float) -> float:
        """P(node accepted | its parent accepted)."""
        key = (sources, bisect_right(_EDGES, claim))
        known = self._known.get(key)
        if known is None:
            rate = self._outlook.applied(sources, self._calibration.rate(*key))
            known = self._known[key] = min(rate, _SUREST)
        return known


def node_probs(tree: DraftTree, calibration: Calibration, outlook: Outlook) -> list[float]:
    """Calibrated P(node accepted | parent accepted) of every node; siblings add up to 1 at most."""
    odds = Odds(calibration, outlook)
    probs = [odds(names, claim) for names, claim in zip(tree.sources, claims(tree), strict=True)]
    totals: dict[int, float] = {}
    for parent, prob in zip(tree.parents, probs, strict=True):
        totals[parent] = totals.get(parent, 0.0) + prob
    if max(totals.values(), default=0.0) <= 1.0:
        return probs
    return [
        prob / max(totals[parent], 1.0) for parent, prob in zip(tree.parents, probs, strict=True)
    ]


def learn(
    tree: DraftTree, tokens: Sequence[int], calibration: Calibration, outlook: Outlook
) -> None:
    """Score every node of ``tree`` whose fate the emitted ``tokens`` reveal, verified or not."""
    below = children(tree)
    node = ROOT
    for token in tokens:
        following = None
        for child in below.get(node, ()):
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


def learn_hits(tree: DraftTree, tokens: Sequence[int], name: str, rate: HitRate) -> None:
    """Follow ``tokens`` through what source ``name`` proposed, until it has no child to offer."""
    below = children(tree)
    node = ROOT
    for token in tokens:
        offered = {
            tree.tokens[child]: child
            for child in below.get(node, ())
            if name in tree.sources[child]
        }
        if not offered:
            return
        rate.observe(token in offered)
        if token not in offered:
            return
        node = offered[token]


def children(tree: DraftTree) -> dict[int, list[int]]:
    """The nodes below each node that has some, and below ``ROOT``."""
    below: dict[int, list[int]] = {}
    for child, parent in enumerate(tree.parents):
        below.setdefault(parent, []).append(child)
    return below


def bucket_of(claim: float) -> int:
    """Which claims are calibrated together."""
    return bisect_right(_EDGES, claim)
