"""Random weights and drafts that are right at a chosen rate: what verification alone gives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.engine.models import VOCABULARY
from benchmarks.engine.ours import OFF, Own
from benchmarks.engine.plan import Plan
from benchmarks.engine.prompts import Prompt, random_prompts, with_prediction
from benchmarks.engine.record import Bar, Measure, Row
from benchmarks.engine.sides import Said, Sides, Unit
from benchmarks.engine.worker import Methods, Worker
from benchmarks.paired import Pairs, speed_up, tokens_per_second
from verifier.request import Speculation

DIALS = (0.0, 0.5, 0.7, 0.9)
BARS = {0.0: Bar("at least", 0.98, whole_interval=True), 0.7: Bar("at least", 2.2)}
PREDICTION = Speculation(mode="auto", sources=frozenset({"prediction"}))


def methods(folder: Path) -> Methods:
    """Predictions come with the prompts: ``record`` writes what they are made from."""
    own = Own(folder, dtype="bfloat16")
    recorded: dict[tuple[int, ...], tuple[int, ...]] = {}

    def record(prompts: tuple[Prompt, ...]) -> Said:
        said = own.said(prompts, OFF, at_once=1)
        for prompt, answer in zip(prompts, said.answers, strict=True):
            recorded[prompt.tokens] = answer
        return said

    def guessed(right: float, prompts: tuple[Prompt, ...]) -> Said:
        guesses = [
            with_prediction(prompt, recorded[prompt.tokens], right=right, vocabulary=VOCABULARY)
            for prompt in prompts
        ]
        return own.said(guesses, PREDICTION, at_once=1)

    return {"off": record} | {name(right): partial(guessed, right) for right in DIALS}


def name(right: float) -> str:
    """Of the side whose drafts are right at that rate."""
    return f"dial {right:g}"


def measure(plan: Plan) -> Row:
    """About 82M random parameters in bfloat16, answers of one length."""
    units = [
        (prompt,)
        for prompt in random_prompts(
            plan.size(3, 1), tokens=64, longest=plan.size(96, 6), vocabulary=VOCABULARY
        )
    ]
    with plan.worker(methods, plan.big) as own:
        sides = Sides({side: (own, side) for side in ("off", *map(name, DIALS))})
        pairs = [_pairs(plan, sides, own, units)]
        peaks = sides.peaks()
    return Row(
        name="dial",
        title="Drafts right at a chosen rate, 12 layers of random weights, bfloat16",
        measures=tuple(_measure(right, pairs, sides) for right in DIALS),
        peak_mib=peaks,
        settings={"answers": len(units), "rounds": pairs[0].rounds},
    )


def _pairs(plan: Plan, sides: Sides, own: Worker, units: Sequence[Unit]) -> Pairs:
    for unit in units:
        own.call("off", unit)  # the recording
    return sides.pairs(units, plan.rounds(110, least=6), warm=units[:1])


def _measure(right: float, pairs: list[Pairs], sides: Sides) -> Measure:
    return Measure(
        what=name(right),
        baseline="speculation off",
        estimate=speed_up(pairs, base="off", ours=name(right)),
        sides=("off", name(right)),
        bar=BARS.get(right),
        details={
            "off": tokens_per_second(pairs, "off"),
            "auto": tokens_per_second(pairs, name(right)),
            "tokens a step": sides.tokens_a_step(name(right)),
            "equal answers": sides.equal("off", name(right)),
        },
    )
