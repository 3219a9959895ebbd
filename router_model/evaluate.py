"""Measures a router, its judge and their cascade on the split ``test``, beside simple baselines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from router_model.classifier import Router
from router_model.errors import NoSuchPolicy, SplitMismatch
from router_model.features import Floats
from router_model.judge import Judge
from router_model.metrics import (
    Bools,
    Interval,
    Rows,
    apgr,
    auroc,
    auroc_within,
    bootstrap,
    brier,
    calibration_error,
    cpt,
    gap_recovered,
)
from router_model.outcomes import Outcome
from router_model.request_text import Request, request_text
from router_model.simulate import ScoredTable, Thresholds, replay, scored, thresholds_from
from router_model.table import table_of
from router_model.thresholds import DEFAULT_GOAL, Goal, fit_thresholds

Report = dict[str, Any]
UNDECIDED = (0.15, 0.85)
"""A family tells something about a router only where a tier is right this often."""
DIAL = (0.95, 0.97, 0.98, 0.985, 0.99, 1.0)


def evaluate(
    test: ScoredTable,
    thresholds: Thresholds,
    *,
    fitting: ScoredTable | None = None,
    heuristics: Mapping[str, Floats] | None = None,
    goal: Goal = DEFAULT_GOAL,
    dial: Sequence[float] = DIAL,
) -> Report:
    """Everything measured, as JSON values; intervals are [estimate, low, high] at 95 %.

    ``fitting``: scores of the split ``thresholds``; baselines and the dial are fitted to it as the
    policy was. ``heuristics``: (N,) stand-ins for the router's score, higher where easier.
    ``goal``: what the policy was solved for; ``dial``: qualities to solve for instead of its own.

    Raises:
        SplitMismatch: ``test`` is of another split.
    """
    if test.split != "test":
        raise SplitMismatch(f"got scores of split {test.split!r}, expected 'test'")
    last, below = test.tiers[-1], range(len(test.tiers) - 1)
    return {
        "prompts": len(test),
        "tiers": list(test.tiers),
        "right": {t: _mean(test.correct[:, i]) for i, t in enumerate(test.tiers)},
        "before_generation": _each_tier(test, test.chances),
        "after_generation": _each_tier(test, test.scores),
        "router": {
            f"{test.tiers[i]} or {last}": router_figures(test, i, heuristics or {}) for i in below
        },
        "policy": thresholds.document(),
        "cascades": _cascades(test, thresholds, fitting, goal),
        "dial": [] if fitting is None else _dial(test, fitting, goal, dial),
    }


def evaluate_outcomes(
    outcomes: Sequence[Outcome],
    router: Router,
    judge: Judge,
    policy: Mapping[str, Mapping[str, float]],
    *,
    prices: Mapping[str, float] | None = None,
    goal: Goal = DEFAULT_GOAL,
    dial: Sequence[float] = DIAL,
) -> Report:
    """``evaluate`` of a saved router and policy on recorded outcomes, with NaN as None.

    Baselines are fitted where the outcomes hold prompts of the split ``thresholds`` too.
    """
    table = table_of(outcomes, "test", router.tiers)
    fitting = None
    if any(outcome.split == "thresholds" for outcome in outcomes):
        fitting = scored(table_of(outcomes, "thresholds", router.tiers), router, judge, prices)
    lengths = np.array([len(request_text(request).asked) for request in table.requests])
    report = evaluate(
        scored(table, router, judge, prices),
        thresholds_from(policy, router.tiers),
        fitting=fitting,
        heuristics={"shorter is easier": -lengths.astype(np.float64)},
        goal=goal,
        dial=dial,
    )
    found: Report = _without_nan(
        report | {"decision_ms": decision_ms(router, table.requests), "prices": dict(prices or {})}
    )
    return found


def decision_ms(router: Router, requests: Sequence[Request]) -> dict[str, float]:
    """Median milliseconds of one prediction, by length of the request."""
    sizes = {"at any length": (0, 10**9), "at 400 to 600 characters": (400, 600)}
    found = {}
    for name, (low, high) in sizes.items():
        kept = [each for each in requests if low <= len(request_text(each).asked) <= high][:200]
        if kept:
            found[name] = float(np.median([_timed_ms(router, each) for each in kept]))
    return found


def _timed_ms(router: Router, request: Request) -> float:
    started = time.perf_counter()
    router.predict(request)
    return 1000 * (time.perf_counter() - started)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _each_tier(table: ScoredTable, said: Floats) -> Report:
    return {
        tier: probability_figures(said[:, place], table.correct[:, place], table.families)
        for place, tier in enumerate(table.tiers)
    }


def probability_figures(said: Floats, right: Bools, families: Any) -> Report:
    """How calibrated and how telling (N,) probabilities are."""
    return {
        "ece": bootstrap(lambda rows: calibration_error(said[rows], right[rows]), len(said)),
        "brier": bootstrap(lambda rows: brier(said[rows], right[rows]), len(said)),
        "auroc": bootstrap(lambda rows: auroc(said[rows], right[rows]), len(said)),
        "auroc_within_family": bootstrap(
            lambda rows: _undecided_auroc(said[rows], right[rows], families[rows]), len(said), 100
        ),
    }


def _undecided_auroc(said: Floats, right: Bools, families: Any) -> float:
    """Mean AUROC over the families that are neither too easy nor too hard for the tier."""
    low, high = UNDECIDED
    each = auroc_within(said, right, families)
    kept = [value for name, value in each.items() if low <= right[families == name].mean() <= high]
    return sum(kept) / len(kept) if kept else float("nan")


def router_figures(table: ScoredTable, weak: int, heuristics: Mapping[str, Floats]) -> Report:
    """APGR and CPT of choosing between a tier and the last one before anything is generated."""
    scores = {
        "router": table.chances[:, weak],
        "router, gain": table.chances[:, weak] - table.chances[:, -1],
        **heuristics,
        "random": np.zeros(len(table)),
    }
    return {name: _routing_figures(table, weak, score) for name, score in scores.items()}


def _routing_figures(table: ScoredTable, weak: int, score: Floats) -> Report:
    def of(figure: Callable[[Floats], float]) -> Interval:
        def measured(rows: Rows) -> float:
            correct = table.correct[rows]
            return figure(gap_recovered(score[rows], correct[:, weak], correct[:, -1]))

        return bootstrap(measured, len(table), 200)

    return {
        "apgr": of(apgr),
        "cpt50": of(lambda curve: cpt(curve, 0.5)),
        "cpt80": of(lambda curve: cpt(curve, 0.8)),
    }


def cascade_figures(table: ScoredTable, thresholds: Thresholds) -> Report:
    """Accuracy of a cascade, alone and relative to the last tier's; who answered; cost."""
    done = replay(table, thresholds)
    strong = table.correct[:, -1]

    def relative(rows: Rows) -> float:
        return float(done.correct[rows].mean()) / max(float(strong[rows].mean()), 1e-9)

    return {
        "right": _mean(done.correct),
        "relative_quality": bootstrap(relative, len(table)),
        "not_by_last": _mean(done.tier < len(table.tiers) - 1),
        "answered_by": {t: float((done.tier == i).mean()) for i, t in enumerate(table.tiers)},
        "cost": _mean(done.cost),
    }


def _cascades(
    test: ScoredTable, shipped: Thresholds, fitting: ScoredTable | None, goal: Goal
) -> Report:
    known = {"shipped policy": shipped} | {
        f"always {tier}": always(test.tiers, place) for place, tier in enumerate(test.tiers)
    }
    found = {name: cascade_figures(test, thresholds) for name, thresholds in known.items()}
    found["random mix"] = _random_mix(test, found["shipped policy"]["answered_by"])
    if fitting is not None:
        for name, blinded in _BLINDED.items():
            found |= _fitted(name, blinded(test), blinded(fitting), goal)
    return found


def _fitted(name: str, test: ScoredTable, fitting: ScoredTable, goal: Goal) -> Report:
    try:
        return {name: cascade_figures(test, fit_thresholds(fitting, goal))}
    except NoSuchPolicy:
        return {}


def always(tiers: tuple[str, ...], place: int) -> Thresholds:
    """Thresholds that let one tier answer everything."""
    start = [1.0 if i < place else 0.0 for i in range(len(tiers))]
    return Thresholds(tiers, tuple(start), (0.0,) * len(tiers))


def _random_mix(table: ScoredTable, shares: Mapping[str, float]) -> Report:
    """Each tier answers its share of prompts, whichever they are: exact expectations."""
    weights = np.array([shares[tier] for tier in table.tiers])

    def right(rows: Rows) -> float:
        return float(table.correct[rows].mean(axis=0) @ weights)

    def relative(rows: Rows) -> float:
        return right(rows) / max(float(table.correct[rows, -1].mean()), 1e-9)

    return {
        "right": bootstrap(right, len(table)),
        "relative_quality": bootstrap(relative, len(table)),
        "not_by_last": Interval(*[1.0 - float(weights[-1])] * 3),
        "answered_by": dict(shares),
        "cost": bootstrap(lambda rows: float(table.costs[rows].mean(axis=0) @ weights), len(table)),
    }


def _without_router(table: ScoredTable) -> ScoredTable:
    """Everything starts at the cheapest tier, or at one fixed tier."""
    return replace(table, chances=np.full_like(table.chances, 0.5))


def _without_judge(table: ScoredTable) -> ScoredTable:
    """Whoever starts answers."""
    return replace(table, scores=np.ones_like(table.scores))


def _confidence_only(table: ScoredTable) -> ScoredTable:
    """No learning: mean token probability in place of the judge, no router."""
    return _without_router(replace(table, scores=table.confidence))


_BLINDED: Mapping[str, Callable[[ScoredTable], ScoredTable]] = {
    "router alone": _without_judge,
    "judge alone": _without_router,
    "confidence alone": _confidence_only,
}


def _dial(
    test: ScoredTable, fitting: ScoredTable, goal: Goal, qualities: Sequence[float]
) -> list[Report]:
    """What each quality goal, solved on one split, comes to on the other."""
    found = []
    for quality in qualities:
        try:
            thresholds = fit_thresholds(fitting, goal._replace(quality=quality))
        except NoSuchPolicy:
            continue
        found.append({"goal": quality, **cascade_figures(test, thresholds)})
    return found


def _mean(values: Any) -> Interval:
    numbers = np.asarray(values, dtype=np.float64)
    return bootstrap(lambda rows: float(numbers[rows].mean()), len(numbers))
