"""Decision margins: how far a token was from being another one."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

NARROW_FLOAT32: Final = 1e-4
"""Below this, batch and tree shape may change a float32 decision (design: verification)."""

NARROW_BFLOAT16: Final = 0.25
"""The same for bfloat16: one row's logits were seen to differ by 0.1 between shapes of a batch."""


def top_gap(scores: NDArray[np.floating], best: int) -> float:
    """Distance of ``scores[best]`` [K], the maximum, from the second best; inf when it is alone."""
    rivals = [part.max() for part in (scores[:best], scores[best + 1 :]) if len(part)]
    if not rivals:
        return math.inf
    return float(scores[best]) - float(max(rivals))


def decision_margin(
    gap: float, boundary: float, temperature: float, repetition_penalty: float = 1.0
) -> float:
    """Smallest distance of a decision from another one, comparable to an error of raw logits.

    ``gap``: of the two best ``logits / T + noise``; ``boundary``: of any token from a filter's
    boundary. Both grow with 1/T as a rounding error of the raw logits does, so that below
    temperature 1 they are scaled back. So does whatever the penalty multiplies or divides.
    """
    scale = temperature if 0.0 < temperature < 1.0 else 1.0
    stretch = max(repetition_penalty, 1.0 / repetition_penalty)
    return min(gap, boundary) * scale / stretch
