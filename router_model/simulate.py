"""Replays a cascade of thresholds over recorded outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router_model.classifier import Reading, Router
from router_model.errors import ModelMismatch
from router_model.evidence import AnswerEvidence
from router_model.features import Floats, extract
from router_model.judge import Judge
from router_model.outcomes import Outcome, Split
from router_model.table import OutcomeTable

Bools = NDArray[np.bool_]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where to begin and what to accept, one of each a tier, cheapest first.

    A request starts at the first tier whose P(right | request) reaches its ``start``; an answer
    stands when P(right | request, answer) reaches its ``accept``, else the next tier is asked. The
    last tier's are zero: what it says always stands.
    """

    tiers: tuple[str, ...]
    start: tuple[float, ...]
    accept: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.tiers) == len(self.start) == len(self.accept) > 0:
            raise ValueError(f"got {self}, expected one start and one accept for each tier")
        if not all(0.0 <= each <= 1.0 for each in (*self.start, *self.accept)):
            raise ValueError(f"got {self}, expected thresholds from 0 to 1")
        if self.start[-1] or self.accept[-1]:
            raise ValueError(f"got {self}, expected zeros for the last tier")

    def document(self) -> dict[str, dict[str, float]]:
        """By tier, as the gateway's policy wants them."""
        each = zip(self.tiers, self.start, self.accept, strict=True)
        return {tier: {"start": start, "accept": accept} for tier, start, accept in each}


def thresholds_from(
    document: Mapping[str, Mapping[str, float]], tiers: tuple[str, ...]
) -> Thresholds:
    """Thresholds of the shape ``document`` gives. ModelMismatch when they are of other tiers."""
    if tuple(document) != tiers:
        raise ModelMismatch(f"policy's tiers: got {tuple(document)}, expected {tiers}")
    rungs = [document[tier] for tier in tiers]
    return Thresholds(
        tiers, tuple(rung["start"] for rung in rungs), tuple(rung["accept"] for rung in rungs)
    )


@dataclass(frozen=True, slots=True, eq=False)
class ScoredTable:
    """What router and judge said of N prompts, and what was true; all (N, tiers) but ``families``.

    ``scores`` judge every tier's answer, though a cascade would ask for few. ``confidence`` is the
    geometric mean of an answer's token probabilities. ``costs``: 1 is what the last tier costs on
    average.
    """

    split: Split
    tiers: tuple[str, ...]
    chances: Floats
    scores: Floats
    confidence: Floats
    correct: Bools
    costs: Floats
    families: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.correct)


class Replay(NamedTuple):
    """What a cascade did: which tier answered (N,), whether rightly (N,), at what cost (N,)."""

    tier: Places
    correct: Bools
    cost: Floats


def scored(
    table: OutcomeTable, router: Router, judge: Judge, prices: Mapping[str, float] | None = None
) -> ScoredTable:
    """Let router and judge, who must not have seen these prompts, speak on all of them.

    ``prices``: what a token of each tier's answer costs, in any unit; None: latencies are costs.

    Raises:
        SplitMismatch: the router was trained on some of these prompts.
        ModelMismatch: other tiers.
    """
    router.check(table.tiers)
    table.require_unseen(router.trained_on)
    readings = router.read_all([extract(request) for request in table.requests])
    return ScoredTable(
        table.split,
        table.tiers,
        np.array([[reading.probabilities[t] for t in table.tiers] for reading in readings]),
        np.array([_judged(row, r, judge) for row, r in zip(table.outcomes, readings, strict=True)]),
        np.array([[_confidence(outcome) for outcome in row] for row in table.outcomes]),
        table.correct(),
        relative_costs(table, prices),
        table.families,
    )


def _judged(row: tuple[Outcome, ...], reading: Reading, judge: Judge) -> list[float]:
    return [judge.score(evidence_of(outcome, reading)) for outcome in row]


def _confidence(outcome: Outcome) -> float:
    """One half where a tier gave no log-probs."""
    return float(np.exp(np.mean(outcome.logprobs))) if outcome.logprobs else 0.5


def evidence_of(outcome: Outcome, reading: Reading) -> AnswerEvidence:
    """A recorded answer as the judge would have seen it."""
    return AnswerEvidence(
        tier=outcome.tier,
        reading=reading,
        answer=outcome.answer,
        logprobs=outcome.logprobs,
        margins=outcome.margins,
        finish_reason=outcome.finish_reason,
        tokens=outcome.tokens,
    )


def relative_costs(table: OutcomeTable, prices: Mapping[str, float] | None = None) -> Floats:
    """(N, tiers) priced tokens, else latencies, else tokens; 1 is the last tier's mean.

    Raises:
        ModelMismatch: a tier has no price though others have.
    """
    if prices:
        if missing := [tier for tier in table.tiers if tier not in prices]:
            raise ModelMismatch(f"prices: got {sorted(prices)}, expected {missing[0]!r} too")
        costs = table.tokens() * np.array([prices[tier] for tier in table.tiers])
    else:
        known = [[outcome.latency_ms for outcome in row] for row in table.outcomes]
        timed = all(each is not None for row in known for each in row)
        costs = np.array(known, dtype=np.float64) if timed else table.tokens()
    relative: Floats = costs / max(float(costs[:, -1].mean()), 1e-9)
    return relative


def first_tier(table: ScoredTable, thresholds: Thresholds) -> Places:
    """(N,) the tier each prompt starts at."""
    reached = table.chances >= np.array(thresholds.start)
    reached[:, -1] = True
    return np.asarray(reached.argmax(axis=1), dtype=np.int64)


def replay(table: ScoredTable, thresholds: Thresholds) -> Replay:
    """Send every prompt through the cascade, from its start tier upwards."""
    tier = first_tier(table, thresholds)
    everyone = np.arange(len(table))
    cost = table.costs[everyone, tier]
    for place in range(len(table.tiers) - 1):
        rejected = (tier == place) & (table.scores[:, place] < thresholds.accept[place])
        tier[rejected] = place + 1
        cost[rejected] += table.costs[rejected, place + 1]
    return Replay(tier, table.correct[everyone, tier], cost)
