"""The work list of one step's paged attention: which program attends to which rows and keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.backend import triton_serves
from kernels.errors import KernelError
from kernels.paged_memory import WORD_BITS
from kernels.paged_views import View, views
from kernels.tiles import Tile, chunk_for, tile_for
from kernels.tree_attention import Rows
from kernels.tree_words import chain_length, check_parents, depths

Table = NDArray[np.int32]

ITEM_FIELDS: Final = 12
"""slot, first query row, fresh, first scratch row, rows, context, first packed row, first column,
end of columns, partial result or -1, tree columns to visit, 1 for a chain; slot -1: nothing."""

MERGE_FIELDS: Final = 5
"""first query row or -1 for nothing, fresh, first packed row, first partial result, splits."""


class Room(NamedTuple):
    """Sizes that a captured graph was made for; a step must fit into them."""

    items: int
    merges: int
    partials: int


class PagedPlan(NamedTuple):
    """What is the same for every layer of one step with one window."""

    requests: tuple[Rows, ...]
    groups: int  # query heads for each key head
    window: int | None
    tile: Tile
    items: Tensor  # [I, ITEM_FIELDS] int32, longest first
    merges: Tensor  # [J, MERGE_FIELDS] int32: rows whose keys were split
    partials: int  # partial results that the merges read
    rows: int  # fresh query rows of all requests
    scratch_rows: int
    widest_tree: int  # rows of the largest request that is not a chain
    longest: tuple[int, int]  # largest slot, and the most committed tokens of any request
    views: tuple[View, ...]  # for PyTorch; empty where Triton serves


class _Request(NamedTuple):
    rows: Rows
    first_query: int
    first_scratch: int
    chain: bool


def plan_paged_attention(
    requests: Sequence[Rows],
    *,
    groups: int,
    head_size: int,
    dtype: torch.dtype,
    device: torch.device,
    window: int | None = None,
    tile: Tile | None = None,
    chunk: int | None = None,
    room: Room | None = None,
) -> PagedPlan:
    """Lay out a step. Host work only, then one copy to ``device``.

    Args:
        requests: ``slot`` is the row of the block table; their fresh rows lie side by side in ``q``
            and all their rows side by side in scratch, in this order. A request without rows is
            padding.
        groups: query heads for each key head, 1 to 8.
        head_size, dtype: of the queries; they choose the tile.
        window: a row sees keys at most ``window - 1`` positions before its own; None: all.
        tile: None: ``tile_for`` the largest request. One tile for all steps makes the bits of a
            row independent of its neighbours.
        chunk: context tokens of a split, a multiple of 64; None: ``chunk_for`` each request.
        room: pad to these sizes, for a captured graph.

    Raises:
        KernelError: a parent after its child, more fresh rows than rows, an argument out of range,
            or more work than ``room``.
    """
    _check(requests, groups, window, chunk)
    packed = max((request.fresh * groups for request in requests), default=1)
    tile = tile_for(packed, head_size, dtype) if tile is None else tile
    items: list[Table] = []
    merges: list[Table] = []
    partials = 0
    laid = _lay_out(requests)
    for request in laid:
        own, merge = _work(request, groups, window, tile, chunk, partials)
        items.append(own)
        merges.append(merge)
        partials += int(merge[:, 4].sum())
    joined = _longest_first(np.concatenate(items) if items else _none(ITEM_FIELDS))
    merged = np.concatenate(merges) if merges else _none(MERGE_FIELDS)
    if room is not None:
        joined, merged = _fit(joined, merged, partials, room)
    return PagedPlan(
        requests=tuple(requests),
        groups=groups,
        window=window,
        tile=tile,
        items=torch.from_numpy(joined).to(device, non_blocking=True),
        merges=torch.from_numpy(merged).to(device, non_blocking=True),
        partials=partials if room is None else room.partials,
        rows=sum(request.fresh for request in requests),
        scratch_rows=sum(len(request.parents) for request in requests),
        widest_tree=max((len(r.rows.parents) for r in laid if not r.chain), default=0),
        longest=_longest(requests),
        views=()
        if triton_serves(device)
        else views(requests, groups=groups, window=window, dtype=dtype, device=device),
    )


def refill(static: PagedPlan, plan: PagedPlan) -> PagedPlan:
    """Put the work of ``plan`` where a captured graph reads it: into the tensors of ``static``.

    Raises:
        KernelError: the graph was captured for another tile, window, number of rows or room.
    """
    for name in ("tile", "groups", "window", "rows", "scratch_rows", "partials"):
        got, expected = getattr(plan, name), getattr(static, name)
        if got != expected:
            raise KernelError(f"got a plan with {name} {got}; expected {expected}")
    for name in ("items", "merges"):
        got, expected = getattr(plan, name).shape, getattr(static, name).shape
        if got != expected:
            raise KernelError(f"got {name} of shape {tuple(got)}; expected {tuple(expected)}")
        getattr(static, name).copy_(getattr(plan, name), non_blocking=True)
    return plan._replace(items=static.items, merges=static.merges)


def _lay_out(requests: Sequence[Rows]) -> list[_Request]:
    laid: list[_Request] = []
    query = scratch = 0
    for request in requests:
        size = len(request.parents)
        if request.fresh:
            laid.append(_Request(request, query, scratch, chain_length(request.parents) == size))
        query += request.fresh
        scratch += size
    return laid


def _work(
    request: _Request,
    groups: int,
    window: int | None,
    tile: Tile,
    chunk: int | None,
    partial: int,
) -> tuple[Table, Table]:
    """The items of one request, split by split with its row tiles side by side, and its merges."""
    rows, packed = request.rows, request.rows.fresh * groups
    step = chunk_for(packed) if chunk is None else chunk
    firsts = np.arange(0, packed, tile.rows, dtype=np.int32)
    starts = _first_columns(request.rows, firsts, groups, window, tile)
    first_split = int(starts.min()) // step
    splits = max(1, -(-rows.context // step) - first_split)
    items = np.empty((splits, len(firsts), ITEM_FIELDS), dtype=np.int32)
    items[..., 0] = rows.slot
    items[..., 1] = request.first_query
    items[..., 2] = rows.fresh
    items[..., 3] = request.first_scratch
    items[..., 4] = len(rows.parents)
    items[..., 5] = rows.context
    items[..., 6] = firsts
    begin = (np.arange(splits, dtype=np.int64) + first_split)[:, None] * step
    items[..., 8] = np.minimum(begin + step, rows.context)
    items[..., 7] = np.minimum(np.maximum(begin, starts), items[..., 8])
    place = np.arange(len(firsts), dtype=np.int32) * splits + np.arange(splits)[:, None]
    items[..., 9] = partial + place if splits > 1 else -1
    last = np.minimum(rows.fresh - 1, (firsts + tile.rows - 1) // groups)
    items[..., 10] = 0
    items[-1, :, 10] = len(rows.parents) - rows.fresh + last + 1
    items[..., 11] = request.chain
    return items.reshape(-1, ITEM_FIELDS), _merges(request, firsts, splits, partial)


def _merges(request: _Request, firsts: Table, splits: int, partial: int) -> Table:
    if splits == 1:
        return _none(MERGE_FIELDS)
    merges = np.empty((len(firsts), MERGE_FIELDS), dtype=np.int32)
    merges[:, 0] = request.first_query
    merges[:, 1] = request.rows.fresh
    merges[:, 2] = firsts
    merges[:, 3] = partial + np.arange(len(firsts)) * splits
    merges[:, 4] = splits
    return merges


def _first_columns(
    rows: Rows, firsts: Table, groups: int, window: int | None, tile: Tile
) -> NDArray[np.int64]:
    """The first column that any row of each tile sees, rounded down to a whole word."""
    if window is None:
        return np.zeros(len(firsts), dtype=np.int64)
    own = depths(rows.parents)[len(rows.parents) - rows.fresh :]
    ends = np.minimum(rows.fresh, (firsts + tile.rows - 1) // groups + 1)
    lowest = [own[a:b].min() for a, b in zip(firsts // groups, ends, strict=True)]
    seen = np.clip(rows.context + np.array(lowest) - window + 1, 0, rows.context)
    return np.asarray(seen // WORD_BITS * WORD_BITS, dtype=np.int64)


def _longest_first(items: Table) -> Table:
    """Long items begin first; equal ones keep their order, so that row tiles share the cache."""
    return items[np.argsort(items[:, 7] - items[:, 8], kind="stable")]


def _fit(items: Table, merges: Table, partials: int, room: Room) -> tuple[Table, Table]:
    needed = Room(len(items), len(merges), partials)
    if any(need > have for need, have in zip(needed, room, strict=True)):
        raise KernelError(f"got work of {needed}; expected at most {room}")
    nothing = np.full((room.items, ITEM_FIELDS), -1, dtype=np.int32)
    nothing[: len(items)] = items
    unmerged = np.full((room.merges, MERGE_FIELDS), -1, dtype=np.int32)
    unmerged[: len(merges)] = merges
    return nothing, unmerged


def _none(fields: int) -> Table:
    return np.empty((0, fields), dtype=np.int32)


def _longest(requests: Sequence[Rows]) -> tuple[int, int]:
    real = [request for request in requests if request.fresh]
    slots = max((request.slot for request in real), default=0)
    return slots, max((request.context for request in real), default=0)


def _check(requests: Sequence[Rows], groups: int, window: int | None, chunk: int | None) -> None:
    if not 1 <= groups <= 8:
        raise KernelError(f"got {groups} query heads for each key head; expected 1 to 8")
    if window is not None and window < 1:
        raise KernelError(f"got a window of {window}; expected at least 1")
    if chunk is not None and (chunk < 1 or chunk % WORD_BITS):
        raise KernelError(f"got chunks of {chunk}; expected a positive multiple of {WORD_BITS}")
    for request in requests:
        check_parents(request.parents)
        if not 0 <= request.fresh <= len(request.parents) or request.context < 0:
            raise KernelError(
                f"slot {request.slot} has {request.fresh} fresh rows of {len(request.parents)} "
                f"and context {request.context}; expected 0 <= fresh <= rows and context >= 0"
            )
        if request.slot < 0:
            raise KernelError(f"got slot {request.slot}; expected a row of the block table")
