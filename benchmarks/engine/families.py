"""Speculation over every family of the demo's tasks, one request at a time, against none."""

from __future__ import annotations

from random import Random

from benchmarks.engine import ours
from benchmarks.engine.plan import Plan
from benchmarks.engine.prompts import LONGEST, SEED, Prompt, Prompts
from benchmarks.engine.record import Bar, Measure, Row
from benchmarks.engine.sides import Sides
from benchmarks.paired import Pairs, speed_up, tokens_per_second

BAR = Bar("at least", 2.0)
FAMILY_BAR = Bar("at least", 0.98, whole_interval=True)
LONG_ANSWER = 32  # tokens; fewer prompts of such families are needed
PROMPTS, PROMPTS_OF_LONG = 8, 2


def measure(plan: Plan) -> Row:
    """River with brook as its draft model, float32, all families mixed."""
    with plan.worker(ours.methods, plan.river, plan.brook) as own:
        sides = Sides({"off": (own, "plain"), "auto": (own, "auto")})
        prompts = Prompts(plan.river)
        longest = plan.size(LONGEST, 4)
        warm = prompts.mixed(plan.size(24, 1), split="thresholds", longest=longest)
        chosen = _chosen(plan, prompts, sides, longest)
        units = [(prompt,) for prompt in chosen]
        pairs = sides.pairs(units, plan.rounds(110, least=5), warm=[(one,) for one in warm])
        peaks = sides.peaks()
    groups = {name: _of_family(name, chosen, pairs) for name in sorted({p.family for p in chosen})}
    overall = Measure(
        what="overall, every family alike",
        baseline="speculation off",
        estimate=speed_up(list(groups.values()), base="off", ours="auto"),
        sides=("off", "auto"),
        bar=BAR,
        details={
            "off": tokens_per_second(list(groups.values()), "off"),
            "auto": tokens_per_second(list(groups.values()), "auto"),
            "tokens a step": sides.tokens_a_step("auto"),
            "equal answers": sides.equal("off", "auto"),
        },
    )
    return Row(
        name="families",
        title="Tree speculation, one request at a time, river",
        measures=(overall, *(_family(name, group) for name, group in groups.items())),
        peak_mib=peaks,
        settings={"prompts": len(chosen), "rounds": pairs.rounds},
    )


def _chosen(plan: Plan, prompts: Prompts, sides: Sides, longest: int) -> list[Prompt]:
    """More prompts of families with short answers, in an order that mixes them all."""
    found = prompts.by_family(plan.size(PROMPTS, 1), families=plan.size(100, 2), longest=longest)
    chosen: list[Prompt] = []
    for of_family in found.values():
        length = sides.length("off", (of_family[0],))
        chosen += of_family[: PROMPTS_OF_LONG if length > LONG_ANSWER else PROMPTS]
    Random(SEED).shuffle(chosen)
    return chosen


def _of_family(name: str, chosen: list[Prompt], pairs: Pairs) -> Pairs:
    """The columns of one family, weighed so that each family counts as one prompt."""
    columns = [place for place, prompt in enumerate(chosen) if prompt.family == name]
    return pairs.only(columns, scale=1 / len(columns))


def _family(name: str, group: Pairs) -> Measure:
    return Measure(
        what=name,
        baseline="speculation off",
        estimate=speed_up([group], base="off", ours="auto"),
        sides=("off", "auto"),
        bar=FAMILY_BAR,
        details={
            "tokens of an answer": float(group.weights.sum()),
            "off": tokens_per_second([group], "off"),
            "auto": tokens_per_second([group], "auto"),
        },
    )
