"""Decision margins: how far a token was from being another one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drafting.source import COLDEST

NARROW_FLOAT32: Final = 1e-4
"""Below this, batch and tree shape may change a float32 decision (design: verification)."""

NARROW_BFLOAT16: Final = 2.0**-6
"""The same for bfloat16, as a share of the likeliest token's logit: two to four of its last places.

Rounding grows with the logits there. Over ten models whose logits reached from 2 to 200, decisions
fell either way up to a share of 0.010 (benchmarks/results/margins.md).
"""

NARROW_FLOAT16: Final = 2.0**-9
"""The same for float16, which has three bits more: inferred, not measured."""


class Narrow(NamedTuple):
    """When a decision is too close to call in a number format."""

    bound: float  # of the margin
    relative: bool = False  # margins are shares of the likeliest token's logit, where above 1


NARROW: Final[Mapping[str, Narrow]] = {
    "float32": Narrow(NARROW_FLOAT32),
    "bfloat16": Narrow(NARROW_BFLOAT16, relative=True),
    "float16": Narrow(NARROW_FLOAT16, relative=True),
    "int8": Narrow(NARROW_BFLOAT16, relative=True),  # computes in bfloat16
}
"""By the name of a number format."""


def relative_margin(margin: float, likeliest: float) -> float:
    """``margin`` as a share of the ``likeliest`` token's raw logit, where that is above 1."""
    return margin / max(abs(likeliest), 1.0)


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
    return min(gap, boundary) / error_stretch(temperature, repetition_penalty)


def error_stretch(temperature: float, repetition_penalty: float) -> float:
    """By how much the rules of sampling enlarge an error of a raw logit, at most; 1 or more."""
    scale = max(temperature, COLDEST) if 0.0 < temperature < 1.0 else 1.0
    return max(repetition_penalty, 1.0 / repetition_penalty) / scale
