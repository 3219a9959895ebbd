"""Speculation, one request at a time, against both kinds that transformers has."""

from __future__ import annotations

from benchmarks.engine import ours, theirs
from benchmarks.engine.plan import Plan
from benchmarks.engine.prompts import LONGEST, Prompts
from benchmarks.engine.record import Bar, Measure, Row
from benchmarks.engine.sides import Sides
from benchmarks.paired import fastest, speed_up, tokens_per_second

BAR = Bar("at least", 2.5)
BASELINES = ("assisted", "prompt lookup")


def measure(plan: Plan) -> Row:
    """River with brook as draft model of both, float32, one prompt of every family."""
    prompts = Prompts(plan.river)
    longest = plan.size(LONGEST, 4)
    families = prompts.by_family(1, families=plan.size(100, 2), longest=longest)
    units = [tuple(found) for found in families.values()]
    mixed = prompts.mixed(plan.size(24, 1), split="thresholds", longest=longest)
    with (
        plan.worker(ours.methods, plan.river, plan.brook) as own,
        plan.worker(theirs.methods, plan.river, plan.brook) as base,
    ):
        own.call("auto", mixed)  # what a planner has learned after its first minute
        sides = Sides({name: (base, name) for name in BASELINES} | {"spillway": (own, "auto")})
        pairs = [sides.pairs(units, plan.rounds(100), warm=[tuple(mixed[:1])])]
    best = fastest(pairs, BASELINES)
    return Row(
        name="assisted",
        title="Tree speculation, one request at a time, river, against transformers",
        measures=(
            Measure(
                what="tokens per second",
                baseline=f"the better of assisted generation and prompt lookup: {best}",
                estimate=speed_up(pairs, base=best, ours="spillway"),
                sides=(best, "spillway"),
                bar=BAR,
                details={name: tokens_per_second(pairs, name) for name in (*BASELINES, "spillway")}
                | {"equal answers": sides.equal(best, "spillway")},
            ),
        ),
        peak_mib=sides.peaks(),
        settings={"prompts": len(units), "rounds": pairs[0].rounds},
    )
