"""Paged attention in plain PyTorch: what runs on CPUs, request by request."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.paged_memory import PagedContext, TreeScratch
from kernels.paged_plan import PagedPlan
from kernels.tree_attention import Rows
from kernels.tree_words import ancestors


class _Seen(NamedTuple):
    """Everything the fresh rows of one request may look at."""

    keys: Tensor  # [Hkv, L, D]
    values: Tensor
    mask: Tensor | None  # bool [fresh, L]; None: all


def attend_with_torch(
    q: Tensor,
    context: PagedContext,
    scratch: TreeScratch,
    plan: PagedPlan,
    *,
    scale: float,
    softcap: float | None,
    out: Tensor,
    lse: Tensor | None,
) -> None:
    """Fill ``out`` and ``lse`` as ``paged_attention`` promises; arguments are already checked."""
    query = first = 0
    for request in plan.requests:
        own = slice(query, query + request.fresh)
        if request.fresh:
            seen = _seen(request, first, context, scratch, plan.window)
            if softcap is None and lse is None:
                out[own] = _fused(q[own], seen, scale)
            else:
                mixed, log_sums = _plain(q[own], seen, scale, softcap)
                out[own] = mixed
                if lse is not None:
                    lse[own] = log_sums
        query, first = own.stop, first + len(request.parents)


def _seen(
    request: Rows, first: int, context: PagedContext, scratch: TreeScratch, window: int | None
) -> _Seen:
    size = len(request.parents)
    own = slice(first, first + size)
    depth = scratch.depths[own]
    begin = 0
    if window is not None:
        lowest = int(depth[size - request.fresh :].min())
        begin = min(request.context, max(0, request.context + lowest - window + 1))
    keys = torch.cat([_committed(context.keys, context, request, begin), scratch.keys[own]])
    values = torch.cat([_committed(context.values, context, request, begin), scratch.values[own]])
    mask = _mask(request, depth, begin, window)
    return _Seen(keys.transpose(0, 1), values.transpose(0, 1), mask)


def _committed(pages: Tensor, context: PagedContext, request: Rows, begin: int) -> Tensor:
    """Committed rows from ``begin`` on, [context - begin, Hkv, D]."""
    size = pages.shape[1]
    first = begin // size
    own = context.tables[request.slot, first : -(-request.context // size)]
    rows = pages[own.long()].flatten(0, 1)
    return rows[begin - first * size : request.context - first * size]


def _mask(request: Rows, depth: Tensor, begin: int, window: int | None) -> Tensor | None:
    device = depth.device
    size, fresh = len(request.parents), request.fresh
    seen = torch.ones((fresh, request.context - begin + size), dtype=torch.bool)
    seen[:, request.context - begin :] = torch.from_numpy(ancestors(request.parents)[-fresh:])
    if window is not None:
        depth = depth.cpu()
        positions = torch.cat([torch.arange(begin, request.context), request.context + depth])
        seen &= positions[-fresh:, None] - positions[None, :] < window
    return None if seen.all() else seen.to(device)


def _fused(q: Tensor, seen: _Seen, scale: float) -> Tensor:
    heads, key_heads = q.shape[1], seen.keys.shape[0]
    groups = heads // key_heads
    own = q.view(q.shape[0], key_heads, groups, -1).permute(1, 2, 0, 3)
    shape = (key_heads, groups, -1, -1)
    out = scaled_dot_product_attention(
        own,
        seen.keys.unsqueeze(1).expand(shape),
        seen.values.unsqueeze(1).expand(shape),
        attn_mask=seen.mask,
        scale=scale,
    )
    return out.permute(2, 0, 1, 3).reshape(q.shape)


def _plain(q: Tensor, seen: _Seen, scale: float, softcap: float | None) -> tuple[Tensor, Tensor]:
    """The same in float32 with a soft cap, and the log of the sum of exponentials [fresh, Hq]."""
    key_heads = seen.keys.shape[0]
    own = q.float().view(q.shape[0], key_heads, -1, q.shape[2])
    scores = torch.einsum("tkgd,kld->tkgl", own, seen.keys.float()) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if seen.mask is not None:
        scores = scores.masked_fill(~seen.mask[:, None, None, :], float("-inf"))
    mixed = torch.einsum("tkgl,kld->tkgd", scores.softmax(-1), seen.values.float())
    return mixed.reshape(q.shape).to(q.dtype), scores.logsumexp(-1).flatten(1)
