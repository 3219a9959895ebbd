"""Speculation against none while a constant number of requests runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks.engine.ours import AUTO, OFF, Own
from benchmarks.engine.plan import Plan
from benchmarks.engine.prompts import LONGEST, Prompt, Prompts
from benchmarks.engine.record import Bar, Measure, Row, mebibytes
from benchmarks.engine.worker import Methods, Worker
from benchmarks.paired import Pairs, Run, interleave, speed_up, tokens_per_second
from verifier.request import Speculation

LOADS = (1, 2, 4, 8, 16, 32)
NOT_SLOWER = Bar("at least", 1.0, whole_interval=True)
BARS = {8: Bar("at least", 1.3)}
SIDES = {"off": OFF, "auto": AUTO}


def methods(target: Path, draft: Path) -> Methods:
    """``load`` requests run until too few are left to keep it up."""
    own = Own(target, draft=draft)

    def loaded(speculation: Speculation, load: int, prompts: tuple[Prompt, ...]) -> Run:
        drive = own.drive(prompts, speculation=speculation, at_once=load, until="thin")
        return Run(drive.seconds, drive.tokens)

    return {name: partial(loaded, speculation) for name, speculation in SIDES.items()}


def measure(plan: Plan) -> Row:
    """River with brook as its draft model, float32, mixed tasks."""
    prompts = Prompts(plan.river)
    longest = plan.size(LONGEST, 3)
    mixed = tuple(prompts.mixed(plan.size(112, 36), longest=longest))
    warm = tuple(prompts.mixed(plan.size(24, 3), split="thresholds", longest=longest))
    with plan.worker(methods, plan.river, plan.brook) as own:
        for side in SIDES:
            own.call(side, 2, warm)
        found: dict[int, Pairs] = {}
        peaks: dict[str, int] = {}
        for load in plan.some(LOADS):
            own.peaks.clear()
            found[load] = _pairs(plan, own, load, mixed)
            peaks |= {f"{side}, {load}": peak for side, peak in own.peaks.items()}
    return Row(
        name="loads",
        title="Speculation auto against off under constant load, river",
        measures=tuple(_measure(load, pairs) for load, pairs in found.items()),
        peak_mib=mebibytes(peaks),
        settings={"rounds": min(pairs.rounds for pairs in found.values())},
    )


def _pairs(plan: Plan, own: Worker, load: int, mixed: tuple[Prompt, ...]) -> Pairs:
    """Several stretches of traffic, long enough that few requests are cut off at the end."""
    count = plan.size(max(16, 3 * load + 16), load + 1)

    def run(side: str) -> partial[Run]:
        return partial(own.call, side, load)

    units = [mixed[:count]]
    return interleave({side: run(side) for side in SIDES}, units, plan.rounds(18, least=7))


def _measure(load: int, pairs: Pairs) -> Measure:
    return Measure(
        what=f"load {load}",
        baseline="speculation off",
        estimate=speed_up([pairs], base="off", ours="auto"),
        sides=(f"off, {load}", f"auto, {load}"),
        bar=BARS.get(load, NOT_SLOWER),
        details={side: tokens_per_second([pairs], side) for side in SIDES},
    )
