"""Time to the first token when another request has had the same long beginning."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.engine.ours import Own
from benchmarks.engine.plan import Plan
from benchmarks.engine.prompts import Prompt, Prompts
from benchmarks.engine.record import Bar, Measure, Row, mebibytes
from benchmarks.engine.worker import Methods
from benchmarks.paired import Run, as_pairs, inverse, speed_up

BAR = Bar("at most", 0.2)
PREFIX = 1000  # tokens


def methods(target: Path, draft: Path) -> Methods:
    """``first`` and ``second`` differ in nothing but what ran before them."""
    own = Own(target, draft=draft)

    def first_token(prompt: Prompt) -> Run:
        return Run(own.drive([prompt]).answers[0].times[0])

    return {"first": first_token, "second": first_token}


def measure(plan: Plan) -> Row:
    """River with brook as its draft model; each pair under a salt of its own."""
    prompts = Prompts(plan.river)
    shared = prompts.long(plan.size(PREFIX, 64), seed=1, longest=2)
    ends = [prompt.tokens for prompt in prompts.mixed(2, split="thresholds")]
    rounds = plan.rounds(30, least=15)
    with plan.worker(methods, plan.river, plan.brook) as own:
        pair = partial(_pair, shared, ends)
        found: dict[str, list[list[Run]]] = {"first": [], "second": []}
        for turn in range(rounds.least + 1):
            for (side, runs), prompt in zip(found.items(), pair(turn), strict=True):
                runs.append([own.call(side, prompt)])
    pairs = [as_pairs({side: runs[1:] for side, runs in found.items()})]  # without the warm-up
    return Row(
        name="shared_prefix",
        title=f"Time to first token behind {len(shared.tokens)} shared tokens, river",
        measures=(
            Measure(
                what="second request",
                baseline="first request",
                estimate=inverse(speed_up(pairs, base="first", ours="second")),
                sides=("first", "second"),
                bar=BAR,
                details={f"{side}, ms": 1e3 * pairs[0].total(side) for side in found},
            ),
        ),
        peak_mib=mebibytes(own.peaks),
        settings={"rounds": pairs[0].rounds},
    )


def _pair(shared: Prompt, ends: list[tuple[int, ...]], turn: int) -> list[Prompt]:
    """The same beginning, two different ends, which take turns at being first."""
    turned = ends if turn % 2 else ends[::-1]
    return [replace(shared, tokens=shared.tokens + end, salt=f"turn {turn}") for end in turned]
