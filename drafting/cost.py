"""What a forward of so many tokens costs on this machine: measured at start, corrected while running."""

from __future__ import annotations

from collections.abc import Sequence


class StepCost:
    """Seconds of one forward by its number of rows: piecewise linear between measured points."""

    def __init__(self, points: Sequence[tuple[int, float]]) -> None:
        """``points``: (tokens, seconds) pairs, at least one, in any order.

        Raises:
            ValueError: no point, or one that is not positive and finite.
        """
        raise NotImplementedError

    def __call__(self, tokens: int) -> float:
        """Seconds a forward of ``tokens`` rows is expected to take."""
        raise NotImplementedError

    def observe(self, tokens: int, seconds: float) -> None:
        """Correct the table by one measured step, slowly: a single slow step moves little."""
        raise NotImplementedError
