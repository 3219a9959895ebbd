"""Results as JSON, as a Markdown table, and as a line for the eye of whoever waits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.engine.plot import plot
from benchmarks.engine.record import Bar, Measure, Row
from benchmarks.machine import machine

INTRODUCTION = """# The engine, measured

Written by `python -m benchmarks.engine`. [How it is measured]({up}docs/benchmarks.md).

{machine}

Peak memory: of the baseline / of ours, Python and torch included.

![How far each measure is from its bar](engine.svg)
"""
HEADER = """
| measure | against | value | 95 % interval | bar | | peak MiB |
|---|---|---:|---:|---:|---|---:|
"""


def write(rows: Sequence[Row], settings: Mapping[str, Any], folder: Path) -> None:
    """``engine.json``, ``engine.md`` and ``engine.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "machine": machine(),
        "settings": dict(settings),
        "rows": [row.as_json() for row in rows],
    }
    (folder / "engine.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "engine.md").write_text(page(rows, settings))
    (folder / "engine.svg").write_text(plot(rows))


def page(rows: Sequence[Row], settings: Mapping[str, Any]) -> str:
    """The whole Markdown page."""
    said = [f"{key}: {value}" for key, value in (machine() | dict(settings)).items()]
    parts = [INTRODUCTION.format(up="../../", machine=", ".join(said) + ".")]
    return "".join(parts + [_section(row) for row in rows])


def lines(measure: Measure) -> str:
    """One measure for a terminal, with what lies behind it."""
    value, low, high = measure.estimate
    verdict = {None: "", True: "met", False: "MISSED"}[measure.met]
    return (
        f"  {measure.what:<48} {value:6.3f} [{low:.3f}, {high:.3f}] {_bar(measure.bar)} {verdict}\n"
        f"      {_details(measure)}"
    )


def _details(measure: Measure) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in measure.details.items())


def _section(row: Row) -> str:
    lines = [_line(measure, row) for measure in row.measures]
    details = [f"- {m.what}: {_details(m)}" for m in row.measures if m.details]
    settings = ", ".join(f"{key} {_short(value)}" for key, value in row.settings.items())
    return (
        f"\n## {row.title}\n{HEADER}{''.join(lines)}\n"
        f"{settings}; {row.seconds:.0f} s.\n\n"
        f"<details><summary>Figures behind the ratios</summary>\n\n"
        f"{chr(10).join(details)}\n\n</details>\n"
    )


def _line(measure: Measure, row: Row) -> str:
    value, low, high = measure.estimate
    cells = (
        measure.what,
        measure.baseline,
        f"{value:.2f}",
        f"{low:.2f} – {high:.2f}",
        _bar(measure.bar),
        _verdict(measure),
        _memory(measure, row),
    )
    return f"| {' | '.join(cells)} |\n"


def _memory(measure: Measure, row: Row) -> str:
    """Peaks of the baseline and of ours."""
    return " / ".join(f"{row.peak_mib[side]:.0f}" for side in measure.sides)


def _verdict(measure: Measure) -> str:
    return {None: "reported", True: "met", False: "**missed**"}[measure.met]


def _bar(bar: Bar | None) -> str:
    if bar is None:
        return ""
    sign = "≥" if bar.sense == "at least" else "≤"
    return f"{sign} {bar.limit:g}" + (" (whole interval)" if bar.whole_interval else "")


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
