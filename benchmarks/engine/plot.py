"""The plot: how far each measure with a bar is from it, as an SVG of rectangles and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.engine.record import Measure, Row

WIDTH, LEFT, RIGHT, LINE, TOP = 980, 470, 60, 20, 46
LOWEST, HIGHEST = 0.25, 8.0  # times the bar; values beyond are drawn at the edge
TICKS = (0.25, 0.5, 1, 2, 4, 8)
MET, MISSED = "#2f7d5b", "#b4483a"


def plot(rows: Sequence[Row]) -> str:
    """A bar for each measure; the vertical line at 1 is its bar, further right is better."""
    shown = [(row, measure) for row in rows for measure in row.measures if measure.bar]
    height = TOP + LINE * len(shown) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="8" y="20" font-size="14">Each measure as a multiple of its bar '
        "(logarithmic; right of the line: met)</text>",
        *(_tick(value, height) for value in TICKS),
    ]
    for place, (row, measure) in enumerate(shown):
        parts += _drawn(row, measure, TOP + LINE * place)
    return "\n".join([*parts, "</svg>", ""])


def times_the_bar(measure: Measure) -> tuple[float, float, float]:
    """Value, worse and better end of the interval as multiples of the bar; above 1 is good."""
    assert measure.bar is not None
    value, low, high = measure.estimate
    if measure.bar.sense == "at least":
        return value / measure.bar.limit, low / measure.bar.limit, high / measure.bar.limit
    return measure.bar.limit / value, measure.bar.limit / high, measure.bar.limit / low


def _drawn(row: Row, measure: Measure, top: int) -> list[str]:
    value, low, high = times_the_bar(measure)
    middle, color = top + LINE / 2, MET if measure.met else MISSED
    start, end = sorted((_x(1.0), _x(value)))
    label = escape(f"{row.name}: {measure.what}")
    return [
        f'<text x="{LEFT - 10}" y="{middle + 4}" text-anchor="end">{label}</text>',
        f'<rect x="{start:.1f}" y="{top + 5}" width="{end - start:.1f}" height="10" '
        f'fill="{color}" fill-opacity="0.75"/>',
        f'<line x1="{_x(low):.1f}" x2="{_x(high):.1f}" y1="{middle}" y2="{middle}" '
        'stroke="#222222"/>',
        f'<text x="{max(_x(high), _x(1.0)) + 6:.1f}" y="{middle + 4}" fill="{color}">'
        f"{measure.estimate.value:.2f}</text>",
    ]


def _tick(value: float, height: int) -> str:
    x, heavy = _x(value), value == 1
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{height - 24}" '
        f'stroke="{"#222222" if heavy else "#dddddd"}"/>'
        f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{value:g}×</text>'
    )


def _x(value: float) -> float:
    """Where a multiple of the bar is drawn."""
    inside = min(max(value, LOWEST), HIGHEST)
    share = math.log(inside / LOWEST) / math.log(HIGHEST / LOWEST)
    return LEFT + share * (WIDTH - LEFT - RIGHT)
