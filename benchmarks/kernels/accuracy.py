"""The error of every kernel against its float64 oracle, beside that of PyTorch's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.kernels.cases import Case, Shape, random_case, random_tree
from kernels.paged_attention import _reference, paged_attention
from kernels.paged_plan import plan_paged_attention
from kernels.paged_torch import attend_with_torch
from kernels.tree_attention import Rows


class Error(NamedTuple):
    """Root of the mean squared error over ``elements``."""

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


def _rms(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).pow(2).mean().sqrt())
