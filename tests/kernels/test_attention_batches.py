"""Which requests share a call of attention."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention_batches import CALL_COST, KEY_COST, MAX_PADDED_ROWS, Extent, spans


def extents(sizes: list[tuple[int, int, int]]) -> list[Extent]:
    """(gap, rows, length) of each request."""
    slot, found = -1, []
    for gap, rows, length in sizes:
        slot += gap
        found.append(Extent(slot, rows, length))
    return found


def cost(run: list[Extent], groups: int) -> int:
    rows, length = max(one.rows for one in run), max(one.length for one in run)
    return CALL_COST + len(run) * length * (KEY_COST + rows * groups)


def least(batch: list[Extent], groups: int) -> int:
    """By trying every set of cuts."""
    best = None
    for cuts in range(2 ** (len(batch) - 1)):
        ends = [at + 1 for at in range(len(batch) - 1) if cuts >> at & 1] + [len(batch)]
        runs = [batch[a:b] for a, b in pairwise([0, *ends])]
        if all(allowed(run) for run in runs):
            total = sum(cost(run, groups) for run in runs)
            best = total if best is None else min(best, total)
    assert best is not None
    return best


def allowed(run: list[Extent]) -> bool:
    neighbours = all(b.slot == a.slot + 1 for a, b in pairwise(run))
    return len(run) == 1 or (neighbours and max(one.rows for one in run) <= MAX_PADDED_ROWS)


sizes = st.tuples(
    st.sampled_from([1, 1, 1, 2]), st.sampled_from([1, 1, 7, 60, 90]), st.sampled_from([9, 400, 90])
)


@settings(deadline=None, max_examples=150)
@given(st.lists(sizes, min_size=1, max_size=7), st.sampled_from([1, 3]))
def test_runs_are_allowed_cover_all_and_are_nearly_the_cheapest(
    drawn: list[tuple[int, int, int]], groups: int
) -> None:
    batch = extents(drawn)
    found = spans(batch, groups)
    assert [first for first, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == len(batch)
    runs = [batch[first:end] for first, end in found]
    assert all(allowed(run) for run in runs)
    assert sum(cost(run, groups) for run in runs) <= 1.3 * least(batch, groups)


def test_equal_decoding_requests_share_one_call() -> None:
    assert spans(extents([(1, 1, 100 + slot) for slot in range(32)]), 3) == [(0, 32)]


def test_one_long_context_does_not_pad_the_short_ones() -> None:
    batch = extents([(1, 1, 60)] * 15 + [(1, 1, 1500)] + [(1, 1, 60)] * 16)
    assert spans(batch, 3) == [(0, 15), (15, 16), (16, 32)]


def test_one_wide_tree_does_not_pad_the_single_rows() -> None:
    batch = extents([(1, 1, 300)] * 16 + [(1, 40, 300)] + [(1, 1, 300)] * 15)
    assert spans(batch, 3) == [(0, 16), (16, 17), (17, 32)]
