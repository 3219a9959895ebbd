"""The attention kernel and the kernel that merges its splits, in Triton."""

# mypy: ignore-errors
# Triton compiles these functions from their source: annotations beyond constexpr, keyword
# defaults and the library of Python do not exist in them.

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
MERGED_AT_ONCE = tl.constexpr(8)


@triton.jit
def attend_items(
    out, lse, part_out, part_lse, q, keys, values, tree_keys, tree_values,
    tables, words, depths, items, scale, softcap, window,
    q_row, q_head, out_row, out_head, key_page, key_slot, key_head,
    value_page, value_slot, value_head, tree_key_row, tree_key_head,
    tree_value_row, tree_value_head, table_row,
    D: tl.constexpr, BLOCK_D: tl.constexpr, GROUPS: tl.constexpr, KEY_HEADS: tl.constexpr,
    PAGE: tl.constexpr, WORDS: tl.constexpr, FIELDS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr, LSE: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """One item and key head: its packed rows over its columns, and over the tree if it is last."""
    item = items + tl.program_id(0) * FIELDS
    head = tl.program_id(1)
    slot = tl.load(item)
    if slot < 0:
        return
    first_query, fresh, first_scratch = tl.load(item + 1), tl.load(item + 2), tl.load(item + 3)
    size, context, first_packed = tl.load(item + 4), tl.load(item + 5), tl.load(item + 6)
    low, high, partial = tl.load(item + 7), tl.load(item + 8), tl.load(item + 9)
    tree_end, chain = tl.load(item + 10), tl.load(item + 11)

    packed = first_packed + tl.arange(0, ROWS)
    fresh_row = packed // GROUPS
    valid = fresh_row < fresh
    node = size - fresh + fresh_row
    query_row = (first_query + fresh_row).to(tl.int64)
    query_head = head * GROUPS + packed % GROUPS
    d = tl.arange(0, BLOCK_D)
    columns = tl.arange(0, COLUMNS)
    query = tl.load(
        q + (query_row * q_row + query_head * q_head)[:, None] + d[None, :],
        mask=valid[:, None] & (d[None, :] < D), other=0.0,
    )  # fmt: skip
    depth = tl.zeros([ROWS], tl.int32)
    if WINDOW:
        depth = tl.load(depths + first_scratch + node, mask=valid, other=0)

    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, BLOCK_D], tl.float32)

    table = tables + slot.to(tl.int64) * table_row
    whole = low + (high - low) // COLUMNS * COLUMNS
    for start in range(low, whole, COLUMNS):  # nothing to mask but the window
        key_rows, value_rows = _rows(
            table, start, columns, high, key_page, key_slot, value_page, value_slot,
            PAGE, COLUMNS, False,
        )  # fmt: skip
        key = _tile(keys + head * key_head, key_rows, d, D, BLOCK_D)
        scores = _scores(query, key, scale, softcap, SOFTCAP, UPCAST)
        if WINDOW:
            seen = (start + columns)[None, :] > (context + depth - window)[:, None]
            scores = tl.where(seen, scores, float("-inf"))
        value = _tile(values + head * value_head, value_rows, d, D, BLOCK_D)
        top, total, mixed = _absorb(top, total, mixed, scores, value, WINDOW, UPCAST)
    if whole < high:  # the page that is not full
        key_rows, value_rows = _rows(
            table, whole, columns, high, key_page, key_slot, value_page, value_slot,
            PAGE, COLUMNS, True,
        )  # fmt: skip
        inside = whole + columns < high
        key = _ragged_tile(keys + head * key_head, key_rows, inside, d, D, BLOCK_D)
        scores = _scores(query, key, scale, softcap, SOFTCAP, UPCAST)
        seen = inside[None, :]
        if WINDOW:
            seen = seen & ((whole + columns)[None, :] > (context + depth - window)[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        value = _ragged_tile(values + head * value_head, value_rows, inside, d, D, BLOCK_D)
        top, total, mixed = _absorb(top, total, mixed, scores, value, True, UPCAST)
    for start in range(0, tree_end, COLUMNS):
        column = start + columns
        inside = column < tree_end
        at = (first_scratch + column).to(tl.int64)
        key = _ragged_tile(
            tree_keys + head * tree_key_head, at * tree_key_row, inside, d, D, BLOCK_D
        )
        scores = _scores(query, key, scale, softcap, SOFTCAP, UPCAST)
        if chain != 0:
            seen = (column[None, :] <= node[:, None]) & inside[None, :]
        else:
            word = tl.load(
                words + (first_scratch + node).to(tl.int64) * WORDS + start // 64,
                mask=valid, other=0,
            )  # fmt: skip
            bit = (start % 64 + columns).to(tl.int64)
            seen = (((word[:, None] >> bit[None, :]) & 1) != 0) & inside[None, :]
        if WINDOW:
            column_depth = tl.load(depths + first_scratch + column, mask=inside, other=0)
            seen = seen & (depth[:, None] - column_depth[None, :] < window)
        scores = tl.where(seen, scores, float("-inf"))
        value = _ragged_tile(
            tree_values + head * tree_value_head, at * tree_value_row, inside, d, D, BLOCK_D
        )
        top, total, mixed = _absorb(top, total, mixed, scores, value, True, UPCAST)

    mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    log_sum = top + tl.log2(tl.where(total == 0.0, 1.0, total))  # -inf where nothing was seen
    if partial < 0:
        tl.store(
            out + (query_row * out_row + query_head * out_head)[:, None] + d[None, :],
            mixed.to(out.dtype.element_ty), mask=valid[:, None] & (d[None, :] < D),
        )  # fmt: skip
        if LSE:
            tl.store(
                lse + query_row * (KEY_HEADS * GROUPS) + query_head, log_sum * LN_2, mask=valid
            )
    else:
        row = (partial.to(tl.int64) * KEY_HEADS + head) * ROWS + tl.arange(0, ROWS)
        tl.store(part_out + row[:, None] * D + d[None, :], mixed, mask=d[None, :] < D)
        tl.store(part_lse + row, log_sum)


@triton.jit
def merge_splits(
    out, lse, part_out, part_lse, merges, out_row, out_head,
    D: tl.constexpr, BLOCK_D: tl.constexpr, GROUPS: tl.constexpr, KEY_HEADS: tl.constexpr,
    FIELDS: tl.constexpr, ROWS: tl.constexpr, SHARE: tl.constexpr, LSE: tl.constexpr,
):  # fmt: skip
    """Sum the splits of ``SHARE`` packed rows of one tile, in the order of their columns."""
    merge = merges + tl.program_id(0) * FIELDS
    head = tl.program_id(1)
    first_query = tl.load(merge)
    if first_query < 0:
        return
    fresh, first_packed = tl.load(merge + 1), tl.load(merge + 2)
    first, splits = tl.load(merge + 3), tl.load(merge + 4)
    own = tl.program_id(2) * SHARE + tl.arange(0, SHARE)
    packed = first_packed + own
    valid = packed // GROUPS < fresh
    d = tl.arange(0, BLOCK_D)
    top = tl.full([SHARE], float("-inf"), tl.float32)
    total = tl.zeros([SHARE], tl.float32)
    mixed = tl.zeros([SHARE, BLOCK_D], tl.float32)
    for start in range(0, splits, MERGED_AT_ONCE):
        split = start + tl.arange(0, MERGED_AT_ONCE)
        row = ((first + split).to(tl.int64) * KEY_HEADS + head) * ROWS
        rows = row[:, None] + own[None, :]
        there = (split < splits)[:, None] & valid[None, :]
        log_sums = tl.load(part_lse + rows, mask=there, other=float("-inf"))
        highest = tl.maximum(top, tl.max(log_sums, 0))
        finite = tl.where(highest == float("-inf"), 0.0, highest)
        weights = tl.exp2(log_sums - finite[None, :])
        fade = tl.exp2(top - finite)
        parts = tl.load(
            part_out + rows[:, :, None] * D + d[None, None, :],
            mask=there[:, :, None] & (d[None, None, :] < D), other=0.0,
        )  # fmt: skip
        total = total * fade + tl.sum(weights, 0)
        mixed = mixed * fade[:, None] + tl.sum(parts * weights[:, :, None], 0)
        top = highest
    mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    query_row = (first_query + packed // GROUPS).to(tl.int64)
    query_head = head * GROUPS + packed % GROUPS
    tl.store(
        out + (query_row * out_row + query_head * out_head)[:, None] + d[None, :],
        mixed.to(out.dtype.element_ty), mask=valid[:, None] & (d[None, :] < D),
    )  # fmt: skip
    if LSE:
        log_sum = (top + tl.log2(tl.where(total == 0.0, 1.0, total))) * LN_2
        tl.store(lse + query_row * (KEY_HEADS * GROUPS) + query_head, log_sum, mask=valid)


@triton.jit
def _rows(
    table, start, columns, end, key_page, key_slot, value_page, value_slot,
    PAGE: tl.constexpr, COLUMNS: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Where keys and values of each column lie: one look into the table if a tile fits a page."""
    column = start + columns
    if PAGE % COLUMNS == 0:
        page = tl.load(table + start // PAGE).to(tl.int64)
    elif RAGGED:
        page = tl.load(table + column // PAGE, mask=column < end, other=0).to(tl.int64)
    else:
        page = tl.load(table + column // PAGE).to(tl.int64)
    at = (column % PAGE).to(tl.int64)
    return page * key_page + at * key_slot, page * value_page + at * value_slot


@triton.jit
def _tile(base, rows, d, D: tl.constexpr, BLOCK_D: tl.constexpr):
    pointers = base + rows[:, None] + d[None, :]
    if D == BLOCK_D:  # noqa: SIM108
        found = tl.load(pointers)
    else:
        found = tl.load(pointers, mask=d[None, :] < D, other=0.0)
    return found


@triton.jit
def _ragged_tile(base, rows, inside, d, D: tl.constexpr, BLOCK_D: tl.constexpr):
    # Zeros, not garbage: a weight of 0 times a stray NaN would still be NaN.
    mask = inside[:, None] & (d[None, :] < D)
    return tl.load(base + rows[:, None] + d[None, :], mask=mask, other=0.0)


@triton.jit
def _scores(query, key, scale, softcap, SOFTCAP: tl.constexpr, UPCAST: tl.constexpr):
    """Scores in powers of two: their exponential is one instruction."""
    if UPCAST:  # the interpreter multiplies the bit patterns of bfloat16
        scores = tl.dot(query.to(tl.float32), tl.trans(key.to(tl.float32)), input_precision="ieee")
    else:
        scores = tl.dot(query, tl.trans(key), input_precision="ieee")
    if SOFTCAP:
        scores = softcap * _tanh(scores * (scale / softcap)) * LOG2_E
    else:
        scores = scores * (scale * LOG2_E)
    return scores


@triton.jit
def _absorb(top, total, mixed, scores, value, MASKED: tl.constexpr, UPCAST: tl.constexpr):
    """One step of the running softmax: largest score, sum of weights, weighted values."""
    highest = tl.maximum(top, tl.max(scores, 1))
    finite = highest
    if MASKED:  # a row that has seen nothing yet: inf - inf would be NaN
        finite = tl.where(highest == float("-inf"), 0.0, highest)
    weights = tl.exp2(scores - finite[:, None])
    fade = tl.exp2(top - finite)
    total = total * fade + tl.sum(weights, 1)
    mixed = mixed * fade[:, None]
    if UPCAST:
        rounded = weights.to(value.dtype).to(tl.float32)
        mixed = tl.dot(rounded, value.to(tl.float32), mixed, input_precision="ieee")
    else:
        mixed = tl.dot(weights.to(value.dtype), value, mixed, input_precision="ieee")
    return highest, total, mixed


@triton.jit
def _tanh(x):
    """Rational near zero, where the exponential form cancels: relative error below 2e-7."""
    square = x * x
    near = x * (945.0 + square * (105.0 + square)) / (945.0 + square * (420.0 + square * 15.0))
    far = 1.0 - 2.0 / (tl.exp2(x * (2.0 * LOG2_E)) + 1.0)
    return tl.where(tl.abs(x) < 0.8, near, far)
