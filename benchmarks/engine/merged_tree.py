"""Acceptance length of the merged tree against that of each source alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.engine.ours import OFF, TARGET, Own
from benchmarks.engine.plan import Plan
from benchmarks.engine.prompts import LONGEST, Prompt, Prompts
from benchmarks.engine.record import Bar, Measure, Row, mebibytes
from benchmarks.engine.worker import Methods, Worker
from benchmarks.paired import estimate, ratio_of_sums
from drafting.source import Reference
from verifier.request import Speculation

BAR = Bar("at least", 1.15)
NODES = 32  # of a step, for the merged tree as for each source
MERGED = "merged"
ESCALATED = 2  # one request in so many comes with the answer of the tier below

Mode = Literal["fixed", "auto"]
Steps = Mapping[str, NDArray[np.int64]]


def methods(target: Path, draft: Path, below: Path) -> Methods:
    """``steps`` answers, one at a time; ``answers`` is the tier below."""
    own = Own(target, draft=draft, max_nodes=NODES)
    lower = Own(below)

    def steps(
        mode: Mode, sources: Sequence[str] | None, prompts: Sequence[Prompt]
    ) -> list[tuple[int, int]]:
        names = None if sources is None else frozenset(sources)
        speculation = Speculation(mode=mode, sources=names, max_nodes=NODES)
        receipts = [
            a.receipt for a in own.drive(prompts, speculation=speculation, at_once=1).answers
        ]
        return [(one.output_tokens, one.steps) for one in receipts if one is not None]

    def sources() -> list[str]:
        drafting = own.engine._decoders[TARGET].drafting
        assert drafting is not None
        return sorted(drafting.names)

    return {
        "steps": steps,
        "answers": lambda prompts: lower.said(prompts, OFF).answers,
        "sources": sources,
    }


def measure(plan: Plan) -> Row:
    """River; brook drafts, and creek has answered every second request before."""
    mixed = Prompts(plan.river).mixed(plan.size(72, 4), longest=plan.size(LONGEST, 8))
    with plan.worker(methods, plan.river, plan.brook, plan.creek) as own:
        prompts = _with_rejected_answers(own, mixed)
        measures = (
            _measure(f"{NODES} nodes at every step", _steps(own, "fixed", prompts), BAR),
            _measure("as many nodes as the planner likes", _steps(own, "auto", prompts), None),
        )
    return Row(
        name="merged_tree",
        title="Tokens of a verification, merged tree against the best single source, river",
        measures=measures,
        peak_mib=mebibytes({"spillway": own.peaks["steps"]}),
        settings={"prompts": len(mixed), "one escalated in": ESCALATED},
    )


def _steps(own: Worker, mode: Mode, prompts: Sequence[Prompt]) -> Steps:
    """Tokens and verifications of each answer [prompts, 2], for every source and all merged."""
    found = {source: own.call("steps", mode, [source], prompts) for source in own.call("sources")}
    found[MERGED] = own.call("steps", mode, None, prompts)
    return {name: np.array(counts) for name, counts in found.items()}


def _measure(what: str, steps: Steps, bar: Bar | None) -> Measure:
    best = max(steps.keys() - {MERGED}, key=lambda source: _length(steps[source]))
    drawn = ratio_of_sums(*steps[MERGED].T) / ratio_of_sums(*steps[best].T)
    return Measure(
        what=what,
        baseline=f"the best single source: {best}",
        estimate=estimate(drawn),
        sides=("spillway",),
        bar=bar,
        details={source: _length(counts) for source, counts in steps.items()},
    )


def _with_rejected_answers(own: Worker, mixed: list[Prompt]) -> tuple[Prompt, ...]:
    """What the cascade sends up: the answer of the tier below, without its end."""
    answers = own.call("answers", mixed)
    return tuple(
        replace(prompt, references=(Reference("rejected_answer", answer[:-1]),))
        if place % ESCALATED == 0
        else prompt
        for place, (prompt, answer) in enumerate(zip(mixed, answers, strict=True))
    )


def _length(steps: NDArray[np.int64]) -> float:
    """Tokens a step."""
    tokens, forwards = steps.sum(axis=0)
    return float(tokens / forwards)
