"""Requests that arrive when they like, some with long prompts: who has to wait for whom."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.engine.ours import Drive, Own
from benchmarks.engine.plan import Plan
from benchmarks.engine.prompts import LONGEST, Prompt, Prompts
from benchmarks.engine.record import Bar, Measure, Row, mebibytes
from benchmarks.engine.worker import Methods, Worker
from benchmarks.paired import Pairs, Run, as_pairs, inverse, speed_up

SMOOTH, SHORT = Bar("at most", 0.5), Bar("at most", 0.85)
LOAD = 0.7  # of the requests a second that the engine manages at most
LONG_PROMPT, ONE_LONG_IN = 1500, 10
LONG_ANSWER = 32  # tokens
PERCENTILE = 99
SHORTEST_WAIT = 1e-6  # seconds; tokens of one step come together
WHOLE, CHUNKED, SHORTEST = "whole prompts", "chunked", "shortest first"
SIDES: Mapping[str, Mapping[str, Any]] = {
    WHOLE: {"step_tokens": None},
    CHUNKED: {},
    SHORTEST: {"order": "shortest"},
}
"""Fields of ``EngineConfig``."""


@dataclass(frozen=True, slots=True)
class Waits:
    """What the requests of one stretch of traffic went through, seconds."""

    token_p99: float  # of short requests: time for each token after the first
    gap_p99: float  # of short requests: between one token and the next
    last_token: float  # mean of all requests, from arrival
    first_token_long: float  # mean of the long ones, from arrival


Due = tuple[float, ...]  # seconds after the beginning


def methods(target: Path, draft: Path) -> Methods:
    """An engine for each of ``SIDES``; ``peak`` is in requests a second."""
    engines = {side: Own(target, draft=draft, **config) for side, config in SIDES.items()}

    def stretch(side: str, prompts: Sequence[Prompt], due: Due) -> Waits:
        return waits(engines[side].drive(prompts, due=due), prompts)

    def peak(prompts: Sequence[Prompt]) -> float:
        return len(prompts) / engines[CHUNKED].drive(prompts).seconds

    return {"peak": peak} | {side: partial(stretch, side) for side in SIDES}


def measure(plan: Plan) -> Row:
    """River with brook as its draft model, float32; each repeat has arrivals of its own."""
    traffic = _traffic(plan)
    with plan.worker(methods, plan.river, plan.brook) as own:
        own.call("peak", traffic)  # to warm up
        rate = LOAD * own.call("peak", traffic)
        found = _stretches(plan, own, traffic, rate)
    return Row(
        name="open_loop",
        title=f"Arrivals at {LOAD:.0%} of peak, one prompt in {ONE_LONG_IN} long, river",
        measures=_measures(found),
        peak_mib=mebibytes({side: own.peaks[side] for side in SIDES}),
        settings={
            "requests": len(traffic),
            "requests a second": rate,
            "tokens of a long prompt": max(len(prompt.tokens) for prompt in traffic),
            "rounds": len(found[CHUNKED]),
        },
    )


def waits(drive: Drive, prompts: Sequence[Prompt]) -> Waits:
    """Sum up one stretch; steps give several tokens at once, so gaps may be zero."""
    answers = list(zip(prompts, drive.answers, strict=True))
    short = [answer.times for prompt, answer in answers if prompt.family != "long"]
    each = [(times[-1] - times[0]) / (len(times) - 1) for times in short if len(times) > 1]
    gaps = np.concatenate([np.diff(times) for times in short])
    return Waits(
        token_p99=float(np.percentile(each, PERCENTILE)),
        gap_p99=float(np.percentile(gaps, PERCENTILE)),
        last_token=float(np.mean([answer.times[-1] - answer.due for _, answer in answers])),
        first_token_long=float(
            np.mean([a.times[0] - a.due for prompt, a in answers if prompt.family == "long"])
        ),
    )


def arrivals(count: int, rate: float, seed: int) -> Due:
    """Times of a Poisson process."""
    rng, now = Random(seed), 0.0
    found = []
    for _ in range(count):
        now += rng.expovariate(rate)
        found.append(now)
    return tuple(found)


def _traffic(plan: Plan) -> tuple[Prompt, ...]:
    """Mixed tasks; every tenth prompt is long, and another one each time."""
    prompts = Prompts(plan.river, router=plan.router)
    traffic = prompts.mixed(plan.size(150, 10), longest=plan.size(LONGEST, 3))
    for place in range(ONE_LONG_IN // 2, len(traffic), ONE_LONG_IN):
        traffic[place] = prompts.long(
            plan.size(LONG_PROMPT, 64), seed=place, longest=plan.size(LONG_ANSWER, 3)
        )
    return tuple(traffic)


def _stretches(
    plan: Plan, own: Worker, traffic: tuple[Prompt, ...], rate: float
) -> dict[str, list[Waits]]:
    """The same arrivals for every side, sides taking turns at being first."""
    found: dict[str, list[Waits]] = {side: [] for side in SIDES}
    names = list(SIDES)
    rounds = plan.rounds(100, least=5, most=15)
    began = time.monotonic()
    for turn in range(rounds.most):
        if turn >= rounds.least and time.monotonic() - began > rounds.budget_s:
            break
        due = arrivals(len(traffic), rate, seed=turn)
        first = turn % len(names)
        for side in [*names[first:], *names[:first]]:
            found[side].append(own.call(side, traffic, due))
    return found


def _measures(found: Mapping[str, list[Waits]]) -> tuple[Measure, ...]:
    chunks = "prompts in one piece"
    return (
        _measure(
            "time for a token after the first, p99 of short requests",
            _shares(found, "token_p99", WHOLE, CHUNKED), chunks, SMOOTH,
        ),
        _measure(
            "gap between tokens, p99 of short requests",
            _shares(found, "gap_p99", WHOLE, CHUNKED), chunks,
        ),
        _measure(
            "time to first token of long prompts, mean",
            _shares(found, "first_token_long", WHOLE, CHUNKED), chunks,
        ),
        _measure(
            "time to last token, mean, shortest predicted first",
            _shares(found, "last_token", CHUNKED, SHORTEST), "first come, first served", SHORT,
        ),
    )  # fmt: skip


def _shares(found: Mapping[str, list[Waits]], field: str, base: str, ours: str) -> Pairs:
    values = {
        side: [max(getattr(waited, field), SHORTEST_WAIT) for waited in found[side]]
        for side in (base, ours)
    }
    return as_pairs({side: [[Run(one)] for one in column] for side, column in values.items()})


def _measure(what: str, pairs: Pairs, baseline: str, bar: Bar | None = None) -> Measure:
    """What the second side takes as a share of the first."""
    base, ours = pairs.costs
    return Measure(
        what=what,
        baseline=baseline,
        estimate=inverse(speed_up([pairs], base=base, ours=ours)),
        sides=(base, ours),
        bar=bar,
        details={f"{side}, ms": 1e3 * pairs.total(side) for side in (base, ours)},
    )
