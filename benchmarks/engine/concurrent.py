"""Many requests at once, against both batches that transformers has."""

from __future__ import annotations

from benchmarks.engine import ours, theirs
from benchmarks.engine.plan import Plan
from benchmarks.engine.prompts import LONGEST, Prompts
from benchmarks.engine.record import Bar, Measure, Row
from benchmarks.engine.sides import Sides
from benchmarks.paired import Pairs, fastest, speed_up, tokens_per_second

BAR = Bar("at least", 1.5)
LOADS = (16, 32)
BASELINES = ("padded generate", "generate_batch")


def measure(plan: Plan) -> Row:
    """River with brook as its draft model, float32, mixed tasks, all submitted together."""
    prompts = Prompts(plan.river)
    longest = plan.size(LONGEST, 2)
    mixed = tuple(prompts.mixed(max(LOADS), longest=longest))
    warm = tuple(prompts.mixed(plan.size(24, 2), split="thresholds", longest=longest))
    with (
        plan.worker(ours.methods, plan.river, plan.brook) as own,
        plan.worker(theirs.methods, plan.river) as base,
    ):
        sides = Sides(
            {name: (base, name) for name in BASELINES} | {"spillway": (own, "auto batch")}
        )
        found: dict[int, Pairs] = {}
        peaks: dict[str, float] = {}
        for load in plan.some(LOADS):
            unit = mixed[: plan.size(load, 2 if load == LOADS[0] else 3)]
            found[load] = sides.pairs([unit], plan.rounds(50, least=6), warm=[warm])
            peaks |= sides.peaks(f"{{}}, {load}")
    return Row(
        name="concurrent",
        title="Requests at once, river, against transformers",
        measures=tuple(_measure(load, pairs, sides) for load, pairs in found.items()),
        peak_mib=peaks,
        settings={"rounds": min(pairs.rounds for pairs in found.values())},
    )


def _measure(load: int, pairs: Pairs, sides: Sides) -> Measure:
    best = fastest([pairs], BASELINES)
    return Measure(
        what=f"{load} at once",
        baseline=f"the better of padded `generate` and `generate_batch`: {best}",
        estimate=speed_up([pairs], base=best, ours="spillway"),
        sides=(f"{best}, {load}", f"spillway, {load}"),
        bar=BAR,
        details={name: tokens_per_second([pairs], name) for name in (*BASELINES, "spillway")}
        | {"equal answers": sides.equal(best, "spillway")},
    )
