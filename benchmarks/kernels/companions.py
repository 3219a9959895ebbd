"""The kernels around attention, and what PyTorch takes for what could be fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.kernels.cases import random_tree
from benchmarks.kernels.timing import median_seconds
from kernels.paged_commit import AcceptedRows, commit_to_pages
from kernels.tree_expansion import expand_trees
from kernels.tree_walk import DraftRows, Drawing, walk_trees


class Size(NamedTuple):
    """A step of a model."""

    batch: int
    nodes: int
    vocabulary: int
    layers: int
    hidden: int
    key_heads: int
    head_size: int
    dtype: torch.dtype


LLAMA = Size(32, 16, 128_256, 32, 4096, 8, 128, torch.bfloat16)
TOY = Size(2, 5, 300, 2, 64, 1, 64, torch.float32)


def measure_companions(size: Size, device: torch.device, repeats: int) -> dict[str, Any]:
    """Median seconds of every companion kernel and of every unfused pair of PyTorch calls."""
    calls: dict[str, Callable[[], object]] = {
        "expand_trees": _expand(size, device),
        "walk_trees": _walk(size, device),
        "commit_to_pages": _commit(size, device),
        **_unfused(size, device),
    }
    return {name: median_seconds([call], device, repeats) for name, call in calls.items()}


def _trees(size: Size) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random_tree(random, size.nodes) for _ in range(size.batch)]


def _ints(values: Any, device: torch.device, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def _expand(size: Size, device: torch.device) -> Callable[[], object]:
    parents = _ints([parent for tree in _trees(size) for parent in tree], device)
    starts = _ints([size.nodes * request for request in range(size.batch + 1)], device)
    contexts = _ints([8192] * size.batch, device)
    words = -(-size.nodes // 64)
    out = expand_trees(parents, starts, contexts, words=words)
    # A CPU looks at the values, a captured graph must not.
    return lambda: expand_trees(parents, starts, contexts, words=words, out=out)


def _walk(size: Size, device: torch.device) -> Callable[[], object]:
    rows = size.batch * size.nodes
    logits = torch.randn((rows, size.vocabulary), device=device).to(size.dtype)
    starts = _ints([size.nodes * request for request in range(size.batch + 1)], device)
    parents = _ints([parent for tree in _trees(size) for parent in tree], device)
    drafted = DraftRows(
        starts, parents, _ints(list(range(rows)), device),
        _ints([8192] * rows, device, torch.int64),
    )  # fmt: skip
    drawing = Drawing(
        _ints([[7, request] for request in range(size.batch)], device, torch.int64),
        torch.ones(size.batch, dtype=torch.float64, device=device),
    )
    out = walk_trees(logits, drafted, drawing, widest=size.nodes, longest=9)
    return lambda: walk_trees(logits, drafted, drawing, widest=size.nodes, longest=9, out=out)


def _commit(size: Size, device: torch.device) -> Callable[[], object]:
    heads = 2 * size.key_heads
    pages = torch.randn((2 * size.batch, size.layers, 64, heads, size.head_size), device=device)
    scratch = torch.randn(
        (size.layers, size.batch * size.nodes, heads, size.head_size), device=device
    )
    pages, scratch = pages.to(size.dtype).transpose(0, 1), scratch.to(size.dtype)
    tables = _ints(np.arange(2 * size.batch).reshape(size.batch, 2).tolist(), device)
    zeros = _ints([0] * size.batch, device)
    accepted = AcceptedRows(
        _ints([size.nodes * request for request in range(size.batch)], device), zeros,
        _ints([[0, 1, 2, 3, 4]] * size.batch, device), _ints([5] * size.batch, device),
    )  # fmt: skip
    return lambda: commit_to_pages(pages, scratch, tables, zeros, accepted)


def _unfused(size: Size, device: torch.device) -> dict[str, Callable[[], object]]:
    """What a fused kernel would have to beat; none is written until it has."""
    rows = size.batch * size.nodes
    x, y, up = (torch.randn((rows, size.hidden), device=device).to(size.dtype) for _ in range(3))
    weight = torch.ones(size.hidden, dtype=size.dtype, device=device)
    heads = x.view(rows, -1, size.head_size)
    turn = torch.ones((rows, 1, size.head_size // 2), dtype=torch.complex64, device=device)

    def rotated() -> object:
        pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turn).flatten(-2).to(size.dtype)

    return {
        "unfused: residual and RMSNorm": lambda: F.rms_norm(x + y, (size.hidden,), weight, 1e-5),
        "unfused: rotary embedding": rotated,
        "unfused: SiLU and multiply": lambda: F.silu(x) * up,
    }
