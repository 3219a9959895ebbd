"""What a forward costs on this machine by its rows: measured at start, corrected while running."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

_RATE: Final = 0.05  # weight of one new measurement
_SURPRISE: Final = 2.0  # a step slower or faster by more counts as this much


class StepCost:
    """Seconds of one forward by its number of rows: piecewise linear between measured points."""

    def __init__(self, points: Sequence[tuple[int, float]]) -> None:
        """``points``: (rows, seconds) pairs, at least one, in any order.

        Raises:
            ValueError: no point, or one that is not positive and finite.
        """
        if not points:
            raise ValueError("got no points; expected at least one (rows, seconds)")
        for rows, seconds in points:
            if rows < 1 or not 0.0 < seconds < math.inf:
                raise ValueError(f"got point {(rows, seconds)}; expected both positive and finite")
        table = dict(sorted(points))
        self._rows = np.array(list(table.keys()), dtype=np.float64)
        self._seconds = np.array(list(table.values()), dtype=np.float64)

    def __call__(self, rows: int) -> float:
        """Seconds a forward of ``rows`` rows is expected to take."""
        return float(self.many(np.array([rows]))[0])

    def many(self, rows: ArrayLike) -> NDArray[np.float64]:
        """Seconds for each of ``rows`` [N]; never falling, beyond the last point as its trend."""
        wanted = np.asarray(rows, dtype=np.float64)
        rising = np.maximum.accumulate(self._seconds)
        inside = np.interp(wanted, self._rows, rising)
        beyond = np.maximum(wanted - self._rows[-1], 0.0)
        return np.asarray(inside + beyond * self._slope(rising))

    def observe(self, rows: int, seconds: float) -> None:
        """Correct the table by one measured step, slowly: a single slow step moves little."""
        if rows < 1 or not 0.0 < seconds < math.inf:
            return
        factor = min(max(seconds / self(rows), 1.0 / _SURPRISE), _SURPRISE)
        self._seconds *= 1.0 + _RATE * self._weights(rows) * (factor - 1.0)

    def _slope(self, rising: NDArray[np.float64]) -> float:
        """Seconds of a row more, after the last point; a lone point is taken as proportional."""
        if len(rising) == 1:
            return float(rising[0] / self._rows[0])
        return float((rising[-1] - rising[-2]) / (self._rows[-1] - self._rows[-2]))

    def _weights(self, rows: int) -> NDArray[np.float64]:
        """How much each point had a say in the cost of ``rows``."""
        unit = np.eye(len(self._rows))
        return np.array([np.interp(float(rows), self._rows, row) for row in unit])
