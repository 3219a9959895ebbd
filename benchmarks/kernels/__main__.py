"""`python -m benchmarks.kernels`: ceilings of the card, then every kernel beside its rivals."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernels import companions, speed
from benchmarks.kernels.accuracy import Error, measure_errors
from benchmarks.kernels.ceilings import Ceilings, measure_ceilings
from kernels.backend import interpreting

RESULTS = Path(__file__).parent.parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the tables, and write the results where a GPU was there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--toy", action="store_true", help="tiny sizes; the default on a CPU")
    parser.add_argument("--accuracy", action="store_true", help="errors only")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    toy = options.toy or device.type == "cpu"
    results: dict[str, Any] = _machine(device, toy)
    results["errors"] = [error._asdict() for error in measure_errors(device, small=options.toy)]
    print(errors_table(results))
    if not options.accuracy:
        _measure_speed(results, device, toy, options.repeats)
        print(speed_table(results))
        print(companions_table(results))
    out = options.out
    if out is None and not toy:
        out = RESULTS / f"kernels-{results['card'].lower().replace(' ', '-')}.json"
    if out is not None:
        out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"written: {out}", file=sys.stderr)
    return 0


def _machine(device: torch.device, toy: bool) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "card": torch.cuda.get_device_name(device) if cuda else None,
        "measured": cuda and not toy,
        "triton": "compiled" if cuda else "interpreted" if interpreting() else "not used",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _measure_speed(results: dict[str, Any], device: torch.device, toy: bool, repeats: int) -> None:
    repeats = 1 if device.type == "cpu" else repeats
    shape = speed.TOY if toy else speed.LLAMA
    ceilings = measure_ceilings(device, shape.dtype, size=64 if toy else 8192)
    results["ceilings"] = ceilings._asdict()
    results["attention"] = [
        speed.measure(setting, shape, ceilings, device, repeats)
        for setting in (speed.TOY_SETTINGS if toy else speed.SETTINGS)
    ]
    size = companions.TOY if toy else companions.LLAMA
    results["companions"] = companions.measure_companions(size, device, repeats)


def errors_table(results: dict[str, Any]) -> str:
    """Markdown: errors against float64 beside PyTorch's."""
    lines = [
        f"Triton: {results['triton']}.\n",
        "| kernel | dtype | elements | RMS error | PyTorch's | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for fields in results["errors"]:
        error = Error(**fields)
        figures = (
            f"{error.ours:.1e} | {error.pytorch:.1e} | {error.ours / error.pytorch:.2f}"
            if error.pytorch
            else f"{error.ours} differ | exact |"
        )
        lines.append(f"| {error.kernel} | {error.dtype} | {error.elements} | {figures} |")
    return "\n".join(lines) + "\n"


def speed_table(results: dict[str, Any]) -> str:
    """Markdown: one row a setting; without a GPU every figure is "not measured"."""
    measured, ceilings = results["measured"], Ceilings(**results["ceilings"])
    lines = [
        f"Card: {results['card'] or 'none'}. "
        f"Copy: {_figure(measured, ceilings.copy / 1e12, ' TB/s')}. "
        f"Matrix: {_figure(measured, ceilings.matrix / 1e12, ' TFLOP/s')}.\n",
        "| batch | context | nodes | ours, µs | share | bar | floor, µs | 16 rows, no split, µs "
        "| others, µs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["attention"]:
        setting = speed.Setting(**row["setting"])
        others = "; ".join(
            f"{name}: {_baseline(measured, times)}" for name, times in row["baselines"].items()
        )
        lines.append(
            f"| {setting.batch} | {setting.context} | {setting.nodes} "
            f"| {_figure(measured, row['ours_s'] * 1e6)} "
            f"| {_figure(measured, row['share'] * 100, ' %')} of {setting.of} "
            f"| {setting.bar * 100:.0f} % | {_figure(measured, row['floor_s'] * 1e6)} "
            f"| {_figure(measured, row['sixteen_rows_s'] * 1e6)} | {others} |"
        )
    return "\n".join(lines) + "\n"


def companions_table(results: dict[str, Any]) -> str:
    """Markdown: the other kernels, and what a fusion would have to beat."""
    lines = ["| call | µs |", "|---|---|"]
    for name, seconds in results["companions"].items():
        lines.append(f"| {name} | {_figure(results['measured'], seconds * 1e6)} |")
    return "\n".join(lines) + "\n"


def _baseline(measured: bool, times: dict[str, Any]) -> str:
    if "missing" in times:
        return str(times["missing"])
    return ", ".join(
        (_figure(measured, value * 1e6) if name == "s" else f"{name[:-2]} "
         f"{_figure(measured, value * 1e6)}")
        for name, value in times.items()
    )  # fmt: skip


def _figure(measured: bool, value: float, unit: str = "") -> str:
    return f"{value:.3g}{unit}" if measured else "not measured"


if __name__ == "__main__":
    sys.exit(main())
