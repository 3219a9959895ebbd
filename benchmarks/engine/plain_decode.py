"""Plain decoding of one request at a time, against `generate`."""

from __future__ import annotations

from benchmarks.engine import ours, theirs
from benchmarks.engine.plan import Plan
from benchmarks.engine.prompts import LONGEST, Prompts
from benchmarks.engine.record import Bar, Measure, Row
from benchmarks.engine.sides import Sides
from benchmarks.paired import speed_up, tokens_per_second

BAR = Bar("at least", 1.5)


def measure(plan: Plan) -> Row:
    """River, float32, one prompt of every family."""
    prompts = Prompts(plan.river)
    longest = plan.size(LONGEST, 4)
    families = prompts.by_family(1, families=plan.size(100, 2), longest=longest)
    units = [tuple(found) for found in families.values()]
    warm = [(prompt,) for prompt in prompts.mixed(2, split="thresholds", longest=longest)]
    with (
        plan.worker(ours.methods, plan.river) as own,
        plan.worker(theirs.methods, plan.river) as base,
    ):
        sides = Sides({"generate": (base, "generate"), "spillway": (own, "plain")})
        pairs = [sides.pairs(units, plan.rounds(70), warm=warm)]
    return Row(
        name="plain_decode",
        title="Plain decoding, one request at a time, river",
        measures=(
            Measure(
                what="tokens per second",
                baseline="transformers `generate`",
                estimate=speed_up(pairs, base="generate", ours="spillway"),
                sides=("generate", "spillway"),
                bar=BAR,
                details={
                    "generate": tokens_per_second(pairs, "generate"),
                    "spillway": tokens_per_second(pairs, "spillway"),
                    "equal answers": sides.equal("generate", "spillway"),
                },
            ),
        ),
        peak_mib=sides.peaks(),
        settings={"prompts": len(units), "rounds": pairs[0].rounds},
    )
