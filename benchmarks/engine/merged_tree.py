"""Acceptance length of the merged tree against that of each source alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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
ESCALATED = 2  # one request in so many comes with the answer of the tier below


def methods(target: Path, draft: Path, below: Path) -> Methods:
    """``steps`` answers with a fixed budget of nodes; ``answers`` is the tier below."""
    own = Own(target, draft=draft, max_nodes=NODES)
    lower = Own(below)

    def steps(sources: Sequence[str] | None, prompts: Sequence[Prompt]) -> list[tuple[int, int]]:
        names = None if sources is None else frozenset(sources)
        speculation = Speculation(mode="fixed", sources=names, max_nodes=NODES)
        receipts = [a.receipt for a in own.drive(prompts, speculation=speculation).answers]
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
        merged = np.array(own.call("steps", None, prompts))
        alone = {
            source: np.array(own.call("steps", [source], prompts)) for source in own.call("sources")
        }
    best = max(alone, key=lambda source: _length(alone[source]))
    drawn = ratio_of_sums(*merged.T) / ratio_of_sums(*alone[best].T)
    return Row(
        name="merged_tree",
        title="Tokens of a verification, merged tree against the best single source, river",
        measures=(
            Measure(
                what="acceptance length",
                baseline=f"the best single source: {best}",
                estimate=estimate(drawn),
                sides=("spillway",),
                bar=BAR,
                details={"merged": _length(merged)}
                | {source: _length(steps) for source, steps in alone.items()},
            ),
        ),
        peak_mib=mebibytes({"spillway": own.peaks["steps"]}),
        settings={"prompts": len(mixed), "nodes": NODES, "one escalated in": ESCALATED},
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
