"""Attention of prefill chunks, single tokens and draft trees over paged contexts."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from kernels.backend import interpreting, triton_serves
from kernels.errors import KernelError
from kernels.paged_memory import WORD_BITS, PagedContext, TreeScratch, check_context, expect
from kernels.paged_plan import ITEM_FIELDS, MERGE_FIELDS, PagedPlan
from kernels.paged_torch import attend_with_torch
from kernels.tiles import DTYPES, HEAD_SIZES, padded
from kernels.tree_words import depths

MERGE_SHARE: Final = 4  # packed rows that one program of the merging kernel sums


def paged_attention(
    q: Tensor,
    context: PagedContext,
    scratch: TreeScratch,
    plan: PagedPlan,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    debug: bool = False,
) -> Tensor:
    """Let every row see its committed pages, its own ancestors and itself.

    Shapes: T fresh rows, S scratch rows, Hq query heads, Hkv key heads, D head size, P pages.
    Args:
        q: (T, Hq, D), float16, bfloat16 or float32; D in ``tiles.HEAD_SIZES``; last stride 1.
        context: pages of one layer in q.dtype, and the block tables.
        scratch: (S, Hkv, D) keys and values of this step's rows in q.dtype, and their words.
        plan: of this step and of this layer's window, on q's device.
        scale: of the scores; None is 1 / sqrt(D).
        softcap: scores become ``softcap * tanh(score / softcap)`` before masking.
        out: (T, Hq, D) in q.dtype, last stride 1; None allocates it.
        lse: (T, Hq) float32 contiguous; filled with the natural log of each row's sum of
            exponentials, -inf for a row that sees nothing.
        debug: look at the block tables as well; waits for the device.
    Returns: ``out``. Every row is written; one that sees nothing is 0.
    Alignment: fastest where rows begin at multiples of 16 bytes; any alignment is right.
    Raises: KernelError: shapes, dtypes, devices or strides disagree, more tree rows than bits in
        ``words``; with ``debug`` a page that does not exist. Raised before anything is launched.
    Accuracy: root of the mean squared error against float64 at most twice that of PyTorch's
        scaled_dot_product_attention in the same dtype. A row's bits depend on its own request and
        on ``plan.tile``, not on neighbours, page numbers or padding.
    """
    out = torch.empty_like(q, memory_format=torch.contiguous_format) if out is None else out
    _check(q, context, scratch, plan, out, lse)
    if softcap is not None and not softcap > 0.0:
        raise KernelError(f"got softcap {softcap}; expected a positive number or None")
    if debug:
        check_pages(context, plan)
    if not plan.rows:
        return out
    factor = q.shape[2] ** -0.5 if scale is None else scale
    if triton_serves(q.device):
        _launch(q, context, scratch, plan, factor, softcap, out, lse)
    else:
        attend_with_torch(
            q, context, scratch, plan, scale=factor, softcap=softcap, out=out, lse=lse
        )
    return out


def check_pages(context: PagedContext, plan: PagedPlan) -> None:
    """Raise ``KernelError`` if the plan reads a page that does not exist. Waits for the device."""
    pages, size = context.keys.shape[0], context.keys.shape[1]
    tables = context.tables.cpu()
    for request in plan.requests:
        used = tables[request.slot, : -(-request.context // size)] if request.fresh else tables[:0]
        wrong = used[(used < 0) | (used >= pages)]
        if wrong.numel():
            raise KernelError(
                f"block table of slot {request.slot} names page {int(wrong[0])}; "
                f"expected 0 <= page < {pages}"
            )


def _launch(
    q: Tensor,
    context: PagedContext,
    scratch: TreeScratch,
    plan: PagedPlan,
    scale: float,
    softcap: float | None,
    out: Tensor,
    lse: Tensor | None,
) -> None:
    from kernels.triton_attention import attend_items, merge_splits

    key_heads, size, tile = context.keys.shape[2], q.shape[2], plan.tile
    part_out = torch.empty(
        (plan.partials, key_heads, tile.rows, size), dtype=torch.float32, device=q.device
    )
    part_lse = torch.empty(part_out.shape[:3], dtype=torch.float32, device=q.device)
    common = {
        "D": size, "BLOCK_D": padded(size), "GROUPS": plan.groups, "KEY_HEADS": key_heads,
        "ROWS": tile.rows, "LSE": lse is not None,
    }  # fmt: skip
    attend_items[(plan.items.shape[0], key_heads)](
        out, q if lse is None else lse, part_out, part_lse, q, context.keys, context.values,
        scratch.keys, scratch.values, context.tables, scratch.words, scratch.depths, plan.items,
        scale, 0.0 if softcap is None else softcap, plan.window or 0,
        *q.stride()[:2], *out.stride()[:2], *context.keys.stride()[:3],
        *context.values.stride()[:3], *scratch.keys.stride()[:2], *scratch.values.stride()[:2],
        context.tables.stride(0),
        **common, PAGE=context.keys.shape[1], WORDS=scratch.words.shape[1], FIELDS=ITEM_FIELDS,
        COLUMNS=tile.columns, SOFTCAP=softcap is not None, WINDOW=plan.window is not None,
        UPCAST=interpreting(), num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    if plan.merges.shape[0]:
        merge_splits[(plan.merges.shape[0], key_heads, tile.rows // MERGE_SHARE)](
            out, q if lse is None else lse, part_out, part_lse, plan.merges, *out.stride()[:2],
            **common, FIELDS=MERGE_FIELDS, SHARE=MERGE_SHARE, num_warps=4,
        )  # fmt: skip


def _check(
    q: Tensor,
    context: PagedContext,
    scratch: TreeScratch,
    plan: PagedPlan,
    out: Tensor,
    lse: Tensor | None,
) -> None:
    if q.dim() != 3 or q.shape[2] not in HEAD_SIZES or q.dtype not in DTYPES:
        raise KernelError(
            f"got q of {q.dtype} and shape {tuple(q.shape)}; expected (rows, heads, D) with D in "
            f"{HEAD_SIZES}, of {DTYPES}"
        )
    heads = scratch.keys.shape[1] * plan.groups if scratch.keys.dim() == 3 else None
    expect("q", q, (plan.rows, heads, None), q.dtype, plan.items.device)
    expect("out", out, tuple(q.shape), q.dtype, q.device)
    if lse is not None:
        expect("lse", lse, tuple(q.shape[:2]), torch.float32, q.device, contiguous=True)
    check_context(context, scratch, q)
    expect("scratch.keys", scratch.keys, (plan.scratch_rows, None, None), q.dtype, q.device)
    slots, longest = plan.longest
    size, (rows, width) = context.keys.shape[1], context.tables.shape
    if slots >= rows or -(-longest // size) > width:
        raise KernelError(
            f"got block tables of {rows} rows and {width} pages of {size} tokens; expected more "
            f"than {slots} rows and at least {longest} tokens"
        )
    if plan.widest_tree > scratch.words.shape[1] * WORD_BITS:
        raise KernelError(
            f"got a tree of {plan.widest_tree} rows and {scratch.words.shape[1]} words; expected "
            f"at most {scratch.words.shape[1] * WORD_BITS} rows"
        )


def _reference(
    q: Tensor,
    context: PagedContext,
    scratch: TreeScratch,
    plan: PagedPlan,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and lse in float64, one row at a time, by following parents and block tables."""
    factor = q.shape[2] ** -0.5 if scale is None else scale
    size = context.keys.shape[1]
    outs: list[Tensor] = []
    sums: list[Tensor] = []
    first = 0
    for request in plan.requests:
        depth = depths(request.parents)
        for row in range(len(request.parents) - request.fresh, len(request.parents)):
            floor = -1 if plan.window is None else request.context + int(depth[row]) - plan.window
            begin = min(max(0, floor + 1), request.context)
            columns = torch.arange(begin, request.context, device=q.device)
            pages = context.tables[request.slot, columns // size].long()
            path = []
            node = row
            while node >= 0:
                if request.context + int(depth[node]) > floor:
                    path.append(first + node)
                node = request.parents[node]
            keys = torch.cat([context.keys[pages, columns % size], scratch.keys[path]])
            values = torch.cat([context.values[pages, columns % size], scratch.values[path]])
            key = keys.double().repeat_interleave(plan.groups, dim=1)
            value = values.double().repeat_interleave(plan.groups, dim=1)
            scores = torch.einsum("hd,khd->hk", q[len(outs)].double(), key) * factor
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            outs.append(torch.einsum("hk,khd->hd", scores.softmax(-1), value))
            sums.append(scores.logsumexp(-1))
        first += len(request.parents)
    return torch.stack(outs), torch.stack(sums)
