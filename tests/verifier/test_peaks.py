"""Peaks of many rows are those of each row."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier.margin import top_gap
from verifier.peaks import peaks

logits = st.sampled_from([0.0, -1.5, 2.0, 2.5, -math.inf])


@settings(deadline=None)
@given(st.lists(st.lists(logits, min_size=4, max_size=4), max_size=5), st.integers(1, 4))
def test_each_row_has_its_argmax_and_its_lead(rows: list[list[float]], width: int) -> None:
    values = np.array(rows, dtype=np.float32).reshape(len(rows), 4)[:, :width].copy()
    before = values.copy()
    found = peaks(values)
    assert np.array_equal(values, before)
    for row, (token, top, gap) in zip(before, zip(*found, strict=True), strict=True):
        assert (token, top) == (int(row.argmax()), float(row.max()))
        if math.isfinite(top):
            assert gap == top_gap(row, token)


def test_what_cannot_be_read_is_told() -> None:
    good = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert peaks(good).finite()
    for bad in (math.nan, math.inf):
        broken = good.copy()
        broken[1, 1] = bad
        assert not peaks(broken).finite()
        assert peaks(broken).rows(0, 1).finite()
    assert not peaks(np.full((1, 3), -math.inf, dtype=np.float32)).finite()
