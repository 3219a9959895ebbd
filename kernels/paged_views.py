"""What a request sees in PyTorch's attention: from which column on, through which mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels.tree_attention import Rows
from kernels.tree_words import ancestors, depths


class View(NamedTuple):
    """Of one request, the same for every layer."""

    begin: int  # first column that any row sees
    mask: Tensor | None  # additive, [fresh * groups, columns from begin on]; None: all is seen


def views(
    requests: Sequence[Rows],
    *,
    groups: int,
    window: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[View, ...]:
    """One view a request, on ``device``."""
    return tuple(_view(request, groups, window, dtype, device) for request in requests)


def _view(
    request: Rows, groups: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> View:
    size, fresh, context = len(request.parents), request.fresh, request.context
    if window is None and size == fresh == 1:
        return View(0, None)
    depth = depths(request.parents)
    begin = 0
    if window is not None and fresh:
        begin = min(context, max(0, context + int(depth[size - fresh :].min()) - window + 1))
    seen = np.ones((fresh, context - begin + size), dtype=np.bool_)
    seen[:, context - begin :] = ancestors(request.parents)[size - fresh :]
    if window is not None:
        positions = np.concatenate([np.arange(begin, context), context + depth])
        own = context + depth[size - fresh :]
        seen &= own[:, None] - positions[None, :] < window
    if seen.all():
        return View(begin, None)
    mask = torch.zeros(seen.shape, dtype=dtype)
    mask.masked_fill_(torch.from_numpy(~seen), float("-inf"))
    return View(begin, mask.repeat_interleave(groups, dim=0).to(device))
