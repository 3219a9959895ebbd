"""How near the decisions of a run came to being others: percentiles and a histogram."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

PERCENTILES: Final = (1, 5, 25, 50, 75)
EDGES: Final = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Lower ends of the histogram's classes; the last one is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginStats:
    """Decision margins of every token of a run, in units of a raw logit."""

    decisions: int
    bound: float  # below it a decision may fall either way
    narrow: int  # decisions below the bound
    percentiles: tuple[tuple[int, float], ...]  # (percent, margin)
    histogram: tuple[tuple[float, int], ...]  # (lower end, decisions), as ``EDGES``


def margin_stats(margins: Iterable[float], *, bound: float) -> MarginStats:
    """Summary of ``margins``; a lone candidate's is infinite and counts as a wide one."""
    found = np.array(list(margins), dtype=np.float64)
    counts, _ = np.histogram(np.minimum(found, 1e300), bins=[*EDGES, np.inf])
    return MarginStats(
        decisions=len(found),
        bound=bound,
        narrow=int((found < bound).sum()),
        percentiles=tuple(
            (percent, float(np.percentile(found, percent, method="lower")))
            for percent in PERCENTILES
            if len(found)
        ),
        histogram=tuple(zip(EDGES, counts.tolist(), strict=True)),
    )
