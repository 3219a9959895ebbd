"""Committing accepted rows against the obvious loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.commit import Accepted, commit_rows
from kernels.errors import KernelError

ROWS = st.lists(st.integers(0, 11), unique=True, max_size=8).map(sorted)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), ROWS), min_size=1, max_size=4))
def test_accepted_rows_follow_their_context_and_nothing_before_moves(
    items: list[tuple[int, list[int]]],
) -> None:
    kv = torch.randn(3, 4, 24, 2, 4)
    before = kv.clone()
    accepted = [Accepted(slot, context, rows) for slot, (context, rows) in enumerate(items)]
    commit_rows(kv, accepted)
    for item in accepted:
        expected = before[:, item.slot, [item.context + row for row in item.rows]]
        end = item.context + len(item.rows)
        assert torch.equal(kv[:, item.slot, item.context : end], expected)
        assert torch.equal(kv[:, item.slot, : item.context], before[:, item.slot, : item.context])
    untouched = [slot for slot in range(4) if slot >= len(items)]
    assert torch.equal(kv[:, untouched], before[:, untouched])


@pytest.mark.parametrize("rows", [[1, 0], [0, 0], [-1], [30]])
def test_rows_out_of_order_or_bounds_are_refused(rows: list[int]) -> None:
    with pytest.raises(KernelError):
        commit_rows(torch.zeros(1, 1, 24, 2, 4), [Accepted(0, 2, rows)])
