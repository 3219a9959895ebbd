"""The error of every kernel against its oracle, beside that of PyTorch's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.kernels.cases import Case, Shape, random_case, random_tree
from kernels.paged_attention import _reference, paged_attention
from kernels.paged_commit import AcceptedRows, commit_to_pages
from kernels.paged_commit import _reference as _commit_reference
from kernels.paged_plan import plan_paged_attention
from kernels.paged_torch import attend_with_torch
from kernels.tree_attention import Rows
from kernels.tree_expansion import _reference as _expansion_reference
from kernels.tree_expansion import expand_trees
from kernels.tree_walk import DraftRows, Drawing, walk_trees
from kernels.tree_walk import _reference as _walk_reference


class Error(NamedTuple):
    """Root of the mean squared error over ``elements``; for whole numbers, how many differ."""

    kernel: str
    dtype: str
    elements: int
    ours: float
    pytorch: float


def measure_errors(device: torch.device, *, small: bool) -> Iterator[Error]:
    """Attention in every dtype: decoding, a tree and a prompt chunk, with split contexts."""
    random = np.random.default_rng(0)
    context, size = (70, 9) if small else (500, 40)
    tree = random_tree(random, size)
    requests = {
        "decoding": [Rows(slot, context + slot, [-1], 1) for slot in range(size // 4)],
        f"tree of {size} rows": [Rows(0, context, tree, size)],
        f"prompt chunk of {size} rows": [Rows(0, context, range(-1, size - 1), size)],
    }
    dtypes = [torch.float32, torch.float16]
    if device.type == "cuda":  # the interpreter cuts bits of bfloat16 off instead of rounding
        dtypes.append(torch.bfloat16)
    for dtype in dtypes:
        for name, rows in requests.items():
            shape = Shape(64 if small else 128, 1 if small else 4, groups=4, dtype=dtype)
            yield _error(f"paged_attention, {name}", random_case(rows, shape, device=device))
    yield _expansion(device)
    yield _walk(device)
    yield _commit(device)


def _error(name: str, case: Case) -> Error:
    plan = plan_paged_attention(
        case.requests, groups=case.shape.groups, head_size=case.shape.head_size,
        dtype=case.shape.dtype, device=case.q.device, chunk=64,
    )  # fmt: skip
    exact, _ = _reference(case.q, case.context, case.scratch, plan)
    ours = paged_attention(case.q, case.context, case.scratch, plan)
    theirs = torch.empty_like(case.q)
    attend_with_torch(
        case.q, case.context, case.scratch, plan,
        scale=case.q.shape[2] ** -0.5, softcap=None, out=theirs, lse=None,
    )  # fmt: skip
    dtype = str(case.shape.dtype).removeprefix("torch.")
    return Error(name, dtype, exact.numel(), _rms(ours, exact), _rms(theirs, exact))


def _expansion(device: torch.device) -> Error:
    random = np.random.default_rng(1)
    parents = [parent for _ in range(4) for parent in random_tree(random, 64)]
    edges = [0, 64, 128, 192, 256]
    given = [torch.tensor(own, dtype=torch.int32) for own in (parents, edges, [0, 5, 64, 8000])]
    got = expand_trees(*(own.to(device) for own in given), words=1)
    exact = _expansion_reference(*given, 1)
    wrong = sum(int((a.cpu() != b).sum()) for a, b in zip(got, exact, strict=True))
    return Error("expand_trees", "int64", sum(own.numel() for own in exact), wrong, 0)


def _walk(device: torch.device) -> Error:
    """Tokens of rows without drafts, at temperature 1."""
    rows, vocabulary = 16, 2000
    logits = torch.randn((rows, vocabulary), generator=torch.Generator().manual_seed(1))
    ints = torch.arange(rows + 1, dtype=torch.int32, device=device)
    root = torch.full((rows,), -1, dtype=torch.int32, device=device)
    positions = torch.arange(rows, device=device) * 2**29
    keys = torch.arange(2 * rows, device=device).view(rows, 2) * 99_999_999
    ones = torch.ones(rows, dtype=torch.float64, device=device)
    got = walk_trees(
        logits.to(device), DraftRows(ints, root, root, positions), Drawing(keys, ones),
        widest=1, longest=1,
    )  # fmt: skip
    pairs = [(int(first), int(second)) for first, second in keys.tolist()]
    wrong = 0
    for row, (own, position) in enumerate(zip(logits, positions.tolist(), strict=True)):
        token, _ = _walk_reference(own.tolist(), 1.0, position + 1, pairs[row])
        wrong += token != int(got.tokens[row, 0])
    return Error("walk_trees", "float32", rows * vocabulary, wrong, 0)


def _commit(device: torch.device) -> Error:
    generator = torch.Generator().manual_seed(1)
    pages = torch.randn((2, 8, 16, 2, 64), generator=generator).to(device)
    scratch = torch.randn((2, 40, 2, 64), generator=generator).to(device)
    tables, contexts, starts, leads, path, counts = (
        torch.tensor(own, dtype=torch.int32, device=device)
        for own in ([[5, 2], [7, 0]], [15, 3], [0, 12], [4, 0], [[0, 3], [0, 9]], [2, 2])
    )
    accepted = AcceptedRows(starts, leads, path, counts)
    exact = _commit_reference(pages, scratch, tables, contexts, accepted)
    commit_to_pages(pages, scratch, tables, contexts, accepted, longest_lead=4)
    return Error("commit_to_pages", "float32", pages.numel(), int((pages != exact).sum()), 0)


def _rms(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).pow(2).mean().sqrt())
