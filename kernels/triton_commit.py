"""Copies accepted scratch rows of all layers to the pages they belong to, in Triton."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def commit_accepted(
    pages, scratch, tables, contexts, starts, leads, path, counts,
    page_layer, page_page, page_slot, scratch_layer, scratch_row, table_row, table_width, layers,
    PAGE: tl.constexpr, STEPS: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, LAYERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``ROWS`` places behind the context of one request, in ``LAYERS`` layers."""
    request = tl.program_id(0)
    lead = tl.load(leads + request)
    end = lead + tl.load(counts + request)
    place = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    if tl.program_id(1) * ROWS >= end:
        return
    column = tl.load(contexts + request) + place
    wanted = (place < end) & (column // PAGE < table_width)  # never past the table
    step = tl.load(path + request * STEPS + place - lead, mask=wanted & (place >= lead), other=0)
    row = tl.load(starts + request) + tl.where(place < lead, place, lead + step)
    page = tl.load(tables + request * table_row + column // PAGE, mask=wanted, other=0)
    target = page.to(tl.int64) * page_page + (column % PAGE).to(tl.int64) * page_slot
    source = row.to(tl.int64) * scratch_row
    first = tl.program_id(2) * LAYERS
    given = scratch + first.to(tl.int64) * scratch_layer
    kept = pages + first.to(tl.int64) * page_layer
    for _ in range(first, tl.minimum(first + LAYERS, layers)):
        for start in range(0, WIDTH, BLOCK):
            inner = start + tl.arange(0, BLOCK)
            mask = wanted[:, None] & (inner < WIDTH)[None, :]
            value = tl.load(given + source[:, None] + inner[None, :], mask=mask)
            tl.store(kept + target[:, None] + inner[None, :], value, mask=mask)
        given += scratch_layer
        kept += page_layer
