"""Writes an evaluation as a Markdown page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]


def as_markdown(report: Report) -> str:
    """Tables of everything ``evaluate`` measured; intervals are 95 % bootstrap intervals."""
    return "\n\n".join(
        [
            f"Measured on {report['prompts']:,} test prompts; [95 % bootstrap intervals].",
            _speed(report.get("decision_ms", {})),
            "### Cascades\n\n" + _cascades(report),
            "### Choosing before generation\n\n" + _routing(report["router"]),
            "### Probabilities\n\n" + _probabilities(report),
            *_dial(report["dial"]),
            "### Thresholds\n\n" + _policy(report["policy"]),
        ]
    )


BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"


def with_measured(page: str, measured: str) -> str:
    """``page`` with what stands between its two marks replaced, or with both added at its end."""
    before, found, rest = page.partition(BEGIN)
    after = rest.partition(END)[2] if found else ""
    before = before if found or not page else page.rstrip() + "\n\n"
    return f"{before}{BEGIN}\n\n{measured}\n\n{END}{after or chr(10)}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cascades(report: Report) -> str:
    tiers = report["tiers"]
    last = tiers[-1]
    heads = ["", "right", f"of {last}'s own", f"not by {last}", "answered by " + " / ".join(tiers)]
    return table(
        [*heads, "cost"],
        ([name, *_cascade_cells(each, tiers)] for name, each in report["cascades"].items()),
    )


def _cascade_cells(each: Report, tiers: Sequence[str]) -> list[str]:
    return [
        _percent(each["right"]),
        _percent(each["relative_quality"]),
        _percent(each["not_by_last"]),
        " / ".join(f"{each['answered_by'][tier]:.0%}" for tier in tiers),
        _number(each["cost"]),
    ]


def _routing(router: Report) -> str:
    rows = [
        [pair, name, *(_number(figures[key]) for key in ("apgr", "cpt50", "cpt80"))]
        for pair, scores in router.items()
        for name, figures in scores.items()
    ]
    return table(["between", "by", "APGR", "CPT50", "CPT80"], rows)


def _probabilities(report: Report) -> str:
    keys = ("ece", "brier", "auroc", "auroc_within_family")
    rows = [
        [tier, when, *(_number(figures[key]) for key in keys)]
        for when, part in (("before", "before_generation"), ("after", "after_generation"))
        for tier, figures in report[part].items()
    ]
    return table(["tier", "generation", "ECE", "Brier", "AUROC", "AUROC within family"], rows)


def _dial(dial: Sequence[Report]) -> list[str]:
    if not dial:
        return []
    rows = [
        [f"{each['goal']:.1%}", *(_percent(each[k]) for k in ("relative_quality", "not_by_last")),
         _number(each["cost"])]
        for each in dial
    ]  # fmt: skip
    heads = ["quality asked for", "quality found", "not by the last tier", "cost"]
    return ["### The dial\n\n" + table(heads, rows)]


def _policy(policy: Report) -> str:
    rows = [[t, f"{each['start']:g}", f"{each['accept']:g}"] for t, each in policy.items()]
    return table(["tier", "start", "accept"], rows)


def _speed(milliseconds: Mapping[str, float]) -> str:
    each = ", ".join(f"{ms:.2f} ms {what}" for what, ms in milliseconds.items())
    return f"Median time of one decision: {each or 'not measured'}."


def _percent(interval: Sequence[float]) -> str:
    value, low, high = (100 * each for each in interval)
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def _number(interval: Sequence[float]) -> str:
    if interval[0] is None or math.isnan(interval[0]):
        return "–"
    value, low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
