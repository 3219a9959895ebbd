"""Paged attention in plain PyTorch: what runs on CPUs, request by request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.paged_memory import PagedContext, TreeScratch
from kernels.paged_plan import PagedPlan
from kernels.paged_views import View, views
from kernels.tree_attention import Rows


class _Share(NamedTuple):
    """The work of one request: query rows packed node x group, so that keys are read once."""

    rows: slice  # of q
    q: Tensor  # [Hkv, fresh * groups, D]
    keys: Tensor  # [Hkv, L, D]
    values: Tensor
    mask: Tensor | None


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
    key_heads = context.keys.shape[2]
    for share in _shares(q, context, scratch, plan):
        fresh = share.rows.stop - share.rows.start
        if softcap is None and lse is None:
            mixed = scaled_dot_product_attention(
                share.q.unsqueeze(0), share.keys.unsqueeze(0), share.values.unsqueeze(0),
                attn_mask=share.mask, scale=scale,
            )[0]  # fmt: skip
        else:
            mixed, sums = _plain(share, scale, softcap)
            if lse is not None:
                lse[share.rows] = _unpacked(sums.unsqueeze(-1), fresh, key_heads).squeeze(-1)
        out[share.rows] = _unpacked(mixed, fresh, key_heads)


def _shares(
    q: Tensor, context: PagedContext, scratch: TreeScratch, plan: PagedPlan
) -> Iterator[_Share]:
    own_views = plan.views or views(
        plan.requests, groups=plan.groups, window=plan.window, dtype=q.dtype, device=q.device
    )
    key_heads, size = context.keys.shape[2], q.shape[2]
    query = first = 0
    for request, view in zip(plan.requests, own_views, strict=True):
        rows = slice(query, query + request.fresh)
        if request.fresh:
            packed = q[rows].reshape(request.fresh, key_heads, plan.groups, size).transpose(0, 1)
            yield _Share(
                rows,
                packed.reshape(key_heads, -1, size),
                _gathered(context.keys, context.tables, scratch.keys, request, view, first),
                _gathered(context.values, context.tables, scratch.values, request, view, first),
                view.mask,
            )
        query, first = rows.stop, first + len(request.parents)


def _gathered(
    pages: Tensor, tables: Tensor, scratch: Tensor, request: Rows, view: View, first: int
) -> Tensor:
    """Committed rows from ``view.begin`` on and then the tree's, [Hkv, L, D]; copied once."""
    size, fresh = pages.shape[1], len(request.parents)
    skipped = view.begin // size
    own = tables[request.slot, skipped : -(-request.context // size)]
    rows = pages.new_empty((own.shape[0] * size + fresh, *pages.shape[2:]))
    if own.shape[0]:
        paged = rows[: own.shape[0] * size].view(-1, *pages.shape[1:])
        torch.index_select(pages, 0, own, out=paged)
    end = request.context - skipped * size
    rows[end : end + fresh] = scratch[first : first + fresh]  # over what the last page had left
    return rows[view.begin - skipped * size : end + fresh].transpose(0, 1)


def _plain(share: _Share, scale: float, softcap: float | None) -> tuple[Tensor, Tensor]:
    """Output and log of the sum of exponentials [Hkv, rows], in float32, with a soft cap."""
    scores = torch.matmul(share.q.float(), share.keys.float().transpose(1, 2)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if share.mask is not None:
        scores = scores + share.mask
    mixed = torch.matmul(scores.softmax(-1), share.values.float())
    return mixed, scores.logsumexp(-1)


def _unpacked(packed: Tensor, fresh: int, key_heads: int) -> Tensor:
    """[Hkv, fresh * groups, X] to [fresh, Hq, X]."""
    return packed.view(key_heads, fresh, -1, packed.shape[2]).transpose(0, 1).flatten(1, 2)
