"""How long answers get: how much more of one may be counted on, once it has got so far."""

from __future__ import annotations

from typing import Final

LONGEST: Final = 256  # tokens of output beyond which its length says nothing more
_MEMORY: Final = 0.99  # weight left to an answer by the next one
_PRIOR: Final = (
    4.0  # answers the common rule is worth: what went on for n goes on for k with n/(n+k)
)
_SURE: Final = 0.8  # P(so much more comes) that is counted on
_SPREAD: Final = 3.0  # how sharply a predicted length is believed: doubled, 1 in 9 gets there


class Lengths:
    """Lengths of finished answers, the latest of them weighing most."""

    def __init__(self) -> None:
        self._reached = [0.0] * (LONGEST + 2)  # weight of answers at least so long

    def note(self, length: int) -> None:
        """An answer ended after so many tokens."""
        if length <= 0:
            return
        end = min(length, LONGEST + 1)
        self._reached = [
            weight * _MEMORY + (place <= end) for place, weight in enumerate(self._reached)
        ]

    def left(self, emitted: int, predicted: int | None = None) -> int:
        """Tokens that an unfinished answer of ``emitted`` may be counted on to bring.

        ``predicted``: its likely length, where somebody told.
        """
        now = min(emitted, LONGEST)
        low, high = 1, LONGEST  # one comes in any case
        while low < high:
            middle = (low + high + 1) // 2
            if self._chance(now, middle, predicted) >= _SURE:
                low = middle
            else:
                high = middle - 1
        return low

    def _chance(self, emitted: int, more: int, predicted: int | None) -> float:
        if predicted is not None:
            return _reach(emitted + 1, predicted) / _reach(emitted + more, predicted)
        reached = self._reached
        alive, end = reached[emitted + 1], emitted + more
        there = reached[min(end, LONGEST + 1)]
        if end > LONGEST + 1:
            there *= (LONGEST + 1) / end
        usual = max(emitted, 1) / (max(emitted, 1) + more - 1)
        return (there + _PRIOR * usual) / (alive + _PRIOR)


def _reach(length: int, predicted: int) -> float:
    return float(1.0 + (length / max(predicted, 1)) ** _SPREAD)
