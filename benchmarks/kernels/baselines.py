"""Other ways to attend to draft trees over paged contexts, on the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.kernels.cases import Case
from kernels.tree_words import ancestors


class Prepared(NamedTuple):
    """A baseline ready to run; ``setup`` is what it has to do in every step before."""

    run: Callable[[], Tensor]  # [B, Hq, N, D]
    setup: Callable[[], object]
    setup_name: str


def dense(case: Case) -> Prepared:
    """PyTorch's attention with a boolean mask, over keys gathered from the pages beforehand."""
    keys, values = gathered(case)
    mask = dense_mask(case).unsqueeze(1)
    q = queries(case)

    def run() -> Tensor:
        return scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)

    return Prepared(run, lambda: gathered(case), "gather")


def flex(case: Case) -> Prepared:
    """FlexAttention over gathered keys; compiled on a GPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled: Any = torch.compile(flex_attention) if case.q.is_cuda else flex_attention
    keys, values = gathered(case)
    q, tree = queries(case), dense_mask(case)
    context = case.requests[0].context

    def visible(b: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return tree[b, row, column]

    def block_mask() -> Any:
        return create_block_mask(
            visible, q.shape[0], None, q.shape[2], keys.shape[2], device=case.q.device
        )

    mask = block_mask()
    assert context + q.shape[2] == keys.shape[2]
    return Prepared(
        lambda: compiled(q, keys, values, block_mask=mask, enable_gqa=True), block_mask, "mask"
    )


def flashinfer(case: Case) -> Prepared | None:
    """FlashInfer's paged prefill with a custom mask, where it is installed.

    It wants the tree's keys in pages too: these are written behind the context beforehand.
    """
    if find_spec("flashinfer") is None or not case.q.is_cuda:
        return None
    import flashinfer as library

    batch, nodes = len(case.requests), case.requests[0].fresh
    page, device = case.shape.page, case.q.device
    keys, values = gathered(case)
    length = keys.shape[2]
    each = -(-length // page)
    store = torch.zeros(
        (batch * each, 2, page, case.shape.key_heads, case.shape.head_size),
        dtype=case.shape.dtype, device=device,
    )  # fmt: skip
    flat = store.view(batch, each, 2, page, case.shape.key_heads, -1).transpose(2, 3).flatten(1, 2)
    flat[:, :length, 0], flat[:, :length, 1] = keys.transpose(1, 2), values.transpose(1, 2)
    store.copy_(flat.view(batch * each, page, 2, case.shape.key_heads, -1).transpose(1, 2))
    wrapper = library.BatchPrefillWithPagedKVCacheWrapper(
        torch.empty(2**28, dtype=torch.uint8, device=device), "NHD"
    )
    steps = torch.arange(batch + 1, dtype=torch.int32, device=device)
    mask = dense_mask(case).flatten()

    def plan() -> None:
        wrapper.plan(
            steps * nodes, steps * each,
            torch.arange(batch * each, dtype=torch.int32, device=device),
            torch.full((batch,), (length - 1) % page + 1, dtype=torch.int32, device=device),
            case.q.shape[1], case.shape.key_heads, case.shape.head_size, page,
            custom_mask=mask, q_data_type=case.shape.dtype,
        )  # fmt: skip

    plan()

    def run() -> Tensor:
        out: Tensor = wrapper.run(case.q, store)
        return out.view(batch, nodes, *case.q.shape[1:]).transpose(1, 2)

    return Prepared(run, plan, "plan with mask")


def queries(case: Case) -> Tensor:
    """[B, Hq, N, D]; every request has as many rows."""
    return case.q.view(len(case.requests), -1, *case.q.shape[1:]).transpose(1, 2).contiguous()


def gathered(case: Case) -> tuple[Tensor, Tensor]:
    """Keys and values of context and tree, [B, Hkv, L, D]."""
    return (
        _gathered(case, case.context.keys, case.scratch.keys),
        _gathered(case, case.context.values, case.scratch.values),
    )


def _gathered(case: Case, pages: Tensor, scratch: Tensor) -> Tensor:
    context = case.requests[0].context
    used = case.context.tables[:, : -(-context // case.shape.page)].long()
    committed = pages[used].flatten(1, 2)[:, :context]
    tree = scratch.view(len(case.requests), -1, *scratch.shape[1:])
    return torch.cat([committed, tree], dim=1).transpose(1, 2).contiguous()


def dense_mask(case: Case) -> Tensor:
    """Who sees whom, bool [B, N, L]."""
    context, nodes = case.requests[0].context, case.requests[0].fresh
    mask = torch.ones((len(case.requests), nodes, context + nodes), dtype=torch.bool)
    for request, own in zip(case.requests, mask, strict=True):
        own[:, context:] = torch.from_numpy(ancestors(request.parents))
    return mask.to(case.q.device)
