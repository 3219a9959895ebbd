"""The likeliest token of many rows of logits at once, and how far it is ahead."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Peaks(NamedTuple):
    """Of each row: its likeliest token (the lowest id wins a tie), that logit, and its lead."""

    tokens: list[int]
    logits: list[float]  # not finite: the row holds NaN or infinity, or nothing else than -inf
    gaps: list[float]  # to the second best; inf where there is one token only

    def rows(self, first: int, end: int) -> Peaks:
        """Those of rows ``first`` to ``end``."""
        return Peaks(self.tokens[first:end], self.logits[first:end], self.gaps[first:end])

    def finite(self) -> bool:
        """Whether every row can be read."""
        return all(map(math.isfinite, self.logits))


def peaks(logits: NDArray[np.float32]) -> Peaks:
    """Peaks of ``logits`` [R, V], which are written to and set back: one pass for each maximum."""
    if not len(logits):
        return Peaks([], [], [])
    rows, best = np.arange(len(logits)), logits.argmax(axis=1)  # an argmax over NaN points at it
    tops = logits[rows, best]
    logits[rows, best] = -np.inf
    seconds = logits.max(axis=1)
    logits[rows, best] = tops
    with np.errstate(invalid="ignore"):
        gaps = tops.astype(np.float64) - seconds
    return Peaks(best.tolist(), tops.tolist(), gaps.tolist())
