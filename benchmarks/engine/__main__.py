"""Measures the engine, row by row, and says which bars it meets.

    python -m benchmarks.engine [--only ROW ...] [--quick] [--threads N] [--patience X] [--out DIR]

A whole run writes benchmarks/results/engine.{json,md,svg}; with --only or --quick nothing is
written unless --out is given.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.engine import (
    assisted,
    concurrent,
    dial,
    families,
    loads,
    merged_tree,
    open_loop,
    plain_decode,
    report,
    shared_prefix,
    step_overhead,
)
from benchmarks.engine.models import write_random_llama
from benchmarks.engine.plan import Plan
from benchmarks.engine.record import Row

ROWS: Mapping[str, Callable[[Plan], Row]] = {
    module.__name__.rpartition(".")[2]: module.measure
    for module in (
        plain_decode, families, assisted, dial, concurrent, loads, merged_tree, shared_prefix,
        step_overhead, open_loop,
    )
}  # fmt: skip
LADDER, ROUTER = Path("demo/ladder"), Path("demo/router")
RESULTS = Path(__file__).parent.parent / "results"


def measured(plan: Plan, names: Sequence[str]) -> list[Row]:
    """The rows of those names, each told about as soon as it is there."""
    rows = []
    for name in names:
        began = time.monotonic()
        row = replace(ROWS[name](plan), seconds=time.monotonic() - began)
        rows.append(row)
        print(f"{row.title} ({row.seconds:.0f} s)", flush=True)
        for measure in row.measures:
            print(report.lines(measure), flush=True)
    return rows


def settings(plan: Plan) -> dict[str, Any]:
    """Besides the machine, what a reader needs to judge the figures by."""
    import torch
    import transformers

    return {
        "threads": plan.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load before": round(os.getloadavg()[0], 2),
    }


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=[])
    parser.add_argument("--quick", action="store_true", help="toy sizes: does everything run?")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--patience", type=float, default=1.0, help="times every time budget")
    parser.add_argument("--ladder", type=Path, default=LADDER)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = parsed(arguments)
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            **{name: options.ladder / name for name in ("river", "brook", "creek")},
            router=ROUTER,
            big=Path(folder),
            threads=options.threads,
            quick=options.quick,
            patience=options.patience,
        )
        size = {"layers": 2, "width": 192} if options.quick else {}
        write_random_llama(plan.big, plan.river, **size)
        told = settings(plan)
        rows = measured(plan, options.only or list(ROWS))
    if options.out or not (options.only or options.quick):
        report.write(rows, told, options.out or RESULTS)


if __name__ == "__main__":
    main()
