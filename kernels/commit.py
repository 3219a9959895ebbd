"""Moves the keys and values of accepted rows to where committed ones belong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.errors import KernelError


class Accepted(NamedTuple):
    """Scratch rows of one slot that became context, in path order."""

    slot: int
    context: int  # committed rows before this step
    rows: Sequence[int]  # indices into the scratch behind the context, ascending


def commit_rows(kv: Tensor, accepted: Sequence[Accepted]) -> None:
    """Copy accepted scratch rows to the end of their context, all layers and requests at once.

    Args:
        kv: (layers, slots, capacity, heads, D); changed in place.

    Raises:
        KernelError: rows not ascending, or beyond the capacity.
    """
    slots: list[int] = []
    sources: list[int] = []
    targets: list[int] = []
    for item in accepted:
        _check(kv, item)
        for place, row in enumerate(item.rows):
            if place != row:  # the leading chain already lies where it belongs
                slots.append(item.slot)
                sources.append(item.context + row)
                targets.append(item.context + place)
    if slots:
        where, source, target = torch.tensor([slots, sources, targets], device=kv.device)
        # The gather is complete before the scatter begins, so overlapping moves are safe.
        kv[:, where, target] = kv[:, where, source]


def _check(kv: Tensor, item: Accepted) -> None:
    rows = list(item.rows)
    if any(a >= b for a, b in pairwise(rows)) or (rows and rows[0] < 0):
        raise KernelError(f"got accepted rows {rows}; expected ascending indices from 0")
    if rows and item.context + rows[-1] >= kv.shape[2]:
        raise KernelError(
            f"row {item.context + rows[-1]} of slot {item.slot} lies beyond the capacity "
            f"{kv.shape[2]}"
        )
