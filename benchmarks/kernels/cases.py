"""Random ragged batches for the paged kernels: shuffled pages, poison wherever nobody may look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels.paged_memory import WORD_BITS, PagedContext, TreeScratch
from kernels.tree_attention import Rows
from kernels.tree_words import ancestor_words, depths


class Shape(NamedTuple):
    """What a model brings to attention."""

    head_size: int
    key_heads: int = 1
    groups: int = 1
    page: int = 64
    dtype: torch.dtype = torch.float32


class Case(NamedTuple):
    """Inputs of one call of ``paged_attention``."""

    requests: tuple[Rows, ...]
    shape: Shape
    q: Tensor
    context: PagedContext
    scratch: TreeScratch


def random_tree(random: np.random.Generator, size: int, *, chain: int = 1) -> list[int]:
    """Parents of ``size`` rows: a chain, then children of random rows from its end on."""
    chain = min(chain, size)
    rest = [int(random.integers(chain - 1, row)) for row in range(chain, size)]
    return [*range(-1, chain - 1), *rest]


def random_case(
    requests: Sequence[Rows], shape: Shape, *, device: torch.device | str = "cpu", seed: int = 0
) -> Case:
    """Normal queries, keys and values; everything else in the buffers is NaN.

    Keys and values are halves of one tensor, as the engine stores them. Pages are dealt in random
    order; unused entries of the block tables are far out of range.
    """
    random = np.random.default_rng(seed)
    pages = [-(-request.context // shape.page) for request in requests]
    dealt = random.permutation(sum(pages) + 2).tolist()
    slots = 1 + max(request.slot for request in requests)
    tables = np.full((slots, 1 + max(pages)), 2**30, dtype=np.int32)
    generator = torch.Generator().manual_seed(seed)
    both = 2 * shape.key_heads
    store = torch.full((len(dealt), shape.page, both, shape.head_size), torch.nan)
    for request, count in zip(requests, pages, strict=True):
        own = [dealt.pop() for _ in range(count)]
        tables[request.slot, :count] = own
        rows = torch.full((count * shape.page, both, shape.head_size), torch.nan)
        rows[: request.context] = torch.randn(
            (request.context, both, shape.head_size), generator=generator
        )
        store[own] = rows.view(count, shape.page, both, shape.head_size)
    nodes = sum(len(request.parents) for request in requests)
    fresh = sum(request.fresh for request in requests)
    kv = torch.randn((nodes, both, shape.head_size), generator=generator)
    q = torch.randn((fresh, shape.key_heads * shape.groups, shape.head_size), generator=generator)
    store, kv, q = (part.to(device, shape.dtype) for part in (store, kv, q))
    half = shape.key_heads
    context = PagedContext(
        store[:, :, :half], store[:, :, half:], torch.from_numpy(tables).to(device)
    )
    words, depth = tree_tables(requests)
    scratch = TreeScratch(kv[:, :half], kv[:, half:], words.to(device), depth.to(device))
    return Case(tuple(requests), shape, q, context, scratch)


def tree_tables(requests: Sequence[Rows]) -> tuple[Tensor, Tensor]:
    """Words [S, W] int64 and depths [S] int32 of all rows; wide chains need no words."""
    parents = [request.parents for request in requests]
    width = min(4, max(1, -(-max(map(len, parents), default=1) // WORD_BITS)))
    words = [
        np.pad(own, ((0, 0), (0, max(0, width - own.shape[1]))))[:, :width]
        for own in map(ancestor_words, parents)
    ]
    depth = np.concatenate([depths(own) for own in parents]).astype(np.int32)
    return torch.from_numpy(np.concatenate(words)), torch.from_numpy(depth)


def uniform_case(
    batch: int, context: int, nodes: int, shape: Shape, device: torch.device, seed: int = 0
) -> Case:
    """``batch`` requests alike, drawn on ``device``: for sizes that would be slow to draw here."""
    generator = torch.Generator(device).manual_seed(seed)
    random = np.random.default_rng(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device, dtype=shape.dtype)

    pages, half = -(-context // shape.page), shape.key_heads
    requests = [Rows(slot, context, random_tree(random, nodes), nodes) for slot in range(batch)]
    order = torch.from_numpy(random.permutation(batch * pages).astype(np.int32))
    store = normal(batch * pages, shape.page, 2 * half, shape.head_size)
    kv = normal(batch * nodes, 2 * half, shape.head_size)
    tables = order.view(batch, pages).to(device)
    words, depth = tree_tables(requests)
    return Case(
        tuple(requests),
        shape,
        normal(batch * nodes, half * shape.groups, shape.head_size),
        PagedContext(store[:, :, :half], store[:, :, half:], tables),
        TreeScratch(kv[:, :half], kv[:, half:], words.to(device), depth.to(device)),
    )
