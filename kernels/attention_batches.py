"""Which requests of a step are attended to in one call: padding costs work, calls cost time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

MAX_PADDED_ROWS = 64  # a request with more fresh rows is attended to on its own
CALL_COST = 4_000  # of one more call, in score elements of one key head; measured on one core
KEY_COST = 10  # of looking at one key at all, in rows; memory counts when rows are few
NEAR_ENOUGH = 1.15  # padding everything may cost this much before cuts are looked for
COARSE, FINE = 64, 16  # keys to which lengths, and their differences, are rounded for the cuts


class Extent(NamedTuple):
    """What one request brings: its slot, rows to compute, and keys to look at."""

    slot: int
    rows: int
    length: int


def spans(extents: Sequence[Extent], groups: int) -> list[tuple[int, int]]:
    """Runs [first, end) of ``extents``, which ascend by slot, that are cheapest together.

    A run holds neighbouring slots only. ``groups``: query heads for each key head.
    """
    if len(extents) == 1 or _all_together(extents, groups):
        return [(0, len(extents))]
    # While requests decode side by side their lengths grow alike, and the cuts stay.
    shortest = min(extent.length for extent in extents)
    start = shortest // COARSE * COARSE + FINE
    rounded = [
        Extent(slot, rows, start + (length - shortest) // FINE * FINE)
        for slot, rows, length in extents
    ]
    return list(_cheapest(tuple(rounded), groups))


def _all_together(extents: Sequence[Extent], groups: int) -> bool:
    count, widest = len(extents), max(extent.rows for extent in extents)
    if widest > MAX_PADDED_ROWS or extents[-1].slot - extents[0].slot != count - 1:
        return False
    longest = max(extent.length for extent in extents)
    apart = sum(_work(1, extent.rows, extent.length, groups) for extent in extents)
    return _work(count, widest, longest, groups) <= NEAR_ENOUGH * (apart + CALL_COST)


@lru_cache(maxsize=256)
def _cheapest(extents: tuple[Extent, ...], groups: int) -> tuple[tuple[int, int], ...]:
    """Cuts of least total cost, by dynamic programming over where the last run begins."""
    costs, starts = [0], [0]  # of the first n extents
    for end in range(1, len(extents) + 1):
        best, start = _last_run(extents, end, groups, costs)
        costs.append(best)
        starts.append(start)
    found: list[tuple[int, int]] = []
    end = len(extents)
    while end:
        found.append((starts[end], end))
        end = starts[end]
    return tuple(found[::-1])


def _last_run(
    extents: Sequence[Extent], end: int, groups: int, costs: Sequence[int]
) -> tuple[int, int]:
    """Least cost of the first ``end`` extents, and where their last run begins."""
    slot, widest, longest = extents[end - 1]
    own = CALL_COST + _work(1, widest, longest, groups)
    best, start = costs[end - 1] + own, end - 1
    for first in range(end - 2, -1, -1):
        other, rows, length = extents[first]
        widest, longest = max(widest, rows), max(longest, length)
        together = CALL_COST + _work(end - first, widest, longest, groups)
        if other != slot - (end - 1 - first) or widest > MAX_PADDED_ROWS or together >= best:
            break
        if costs[first] + together < best:
            best, start = costs[first] + together, first
    return best, start


def _work(count: int, rows: int, length: int, groups: int) -> int:
    return count * length * (KEY_COST + rows * groups)
