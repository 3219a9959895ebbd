"""What share of a step is spent outside the target's forward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.engine.models import VOCABULARY
from benchmarks.engine.ours import AUTO, OFF, Own
from benchmarks.engine.plan import Plan
from benchmarks.engine.prompts import LONGEST, Prompt, Prompts, random_prompts, with_prediction
from benchmarks.engine.record import Bar, Measure, Row, mebibytes
from benchmarks.engine.worker import Methods, Worker
from benchmarks.paired import middle
from verifier.loading import Dtype
from verifier.request import Speculation

BAR = Bar("at most", 0.15)
BATCH = 16
RIGHT = 0.7  # of predicted tokens
BIG_OFF, BIG_AUTO = "82M, speculation off", f"82M, predictions right at {RIGHT:g}"
RIVER_OFF, RIVER_AUTO = "river, speculation off", "river, speculation auto, brook outside"


def methods(target: Path, draft: Path | None, dtype: Dtype) -> Methods:
    """``share`` of the time in ``Engine.step`` that is outside the forward, while 16 run."""
    own = Own(target, draft=draft, dtype=dtype)

    def share(prompts: Sequence[Prompt], speculation: Speculation) -> tuple[float, float]:
        drive = own.drive(prompts, speculation=speculation, at_once=BATCH, until="thin")
        return 1 - drive.forward_seconds / drive.step_seconds, drive.step_seconds / drive.steps

    return {
        "answers": lambda prompts: own.said(prompts, OFF).answers,
        "off": lambda prompts: share(prompts, OFF),
        "auto": lambda prompts: share(prompts, AUTO),
    }


def measure(plan: Plan) -> Row:
    """The random model in bfloat16, which has the bar, and river in float32."""
    longest = plan.size(48, 4)
    random = random_prompts(BATCH, tokens=32, longest=longest, vocabulary=VOCABULARY)
    with plan.worker(methods, plan.big, None, "bfloat16") as own:
        answers = own.call("answers", random)
        guessed = [
            with_prediction(prompt, answer, right=RIGHT, vocabulary=VOCABULARY)
            for prompt, answer in zip(random, answers, strict=True)
        ]
        big = {
            "off": _shares(plan, own, "off", random),
            "auto": _shares(plan, own, "auto", guessed),
        }
        peaks = {BIG_OFF: own.peaks["off"], BIG_AUTO: own.peaks["auto"]}
    mixed = Prompts(plan.river).mixed(
        plan.size(4 * BATCH, BATCH + 2), longest=plan.size(LONGEST, 4)
    )
    with plan.worker(methods, plan.river, plan.brook, "float32") as own:
        small = {side: _shares(plan, own, side, mixed) for side in ("off", "auto")}
        peaks |= {RIVER_OFF: own.peaks["off"], RIVER_AUTO: own.peaks["auto"]}
    return Row(
        name="step_overhead",
        title=f"Share of a step outside the target's forward, batch {BATCH}",
        measures=(
            _measure(BIG_OFF, big["off"], BAR),
            _measure(BIG_AUTO, big["auto"], BAR),
            _measure(RIVER_OFF, small["off"], None),
            _measure(RIVER_AUTO, small["auto"], None),
        ),
        peak_mib=mebibytes(peaks),
        settings={"rounds": len(big["off"])},
    )


Shares = list[tuple[float, float]]  # share outside, and seconds of a step, for every repeat


def _shares(plan: Plan, own: Worker, side: str, prompts: Sequence[Prompt]) -> Shares:
    own.call(side, prompts)  # to warm up
    return [own.call(side, prompts) for _ in range(plan.size(7, 2))]


def _measure(what: str, shares: Shares, bar: Bar | None) -> Measure:
    outside, seconds = zip(*shares, strict=True)
    return Measure(
        what=what,
        baseline="time of a step",
        estimate=middle(outside),
        sides=(what,),
        bar=bar,
        details={"step, ms": 1e3 * middle(seconds).value},
    )
