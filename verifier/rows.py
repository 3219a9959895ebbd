"""Keys and values at hand while requests run: contexts, and this step's scratch behind them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels.tree_attention import Rows
from kernels.tree_words import chain_length, depths

CAPACITY_STEP = 256


class CacheShape(NamedTuple):
    """What one token's keys and values take."""

    layers: int
    heads: int  # key heads; as many again for values
    head_size: int
    dtype: torch.dtype
    device: torch.device = torch.device("cpu")

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of all layers."""
        return self.layers * 2 * self.heads * self.head_size * self.dtype.itemsize


class ContextRows:
    """One slot a running request: ``kv`` [layers, slots, capacity, 2 * heads, head_size].

    The rows of a slot are its committed context, then the scratch of the current step. Grows as
    needed and never shrinks before ``release_all``.
    """

    def __init__(self, shape: CacheShape) -> None:
        self.shape = shape
        self.kv = self._empty(0, 0)
        self.layers: tuple[Tensor, ...] = ()

    @property
    def slots(self) -> int:
        """Slots there are."""
        return self.kv.shape[1]

    @property
    def capacity(self) -> int:
        """Rows of one slot."""
        return self.kv.shape[2]

    def ensure(self, slots: int, capacity: int) -> None:
        """Have at least ``slots`` of at least ``capacity`` rows; contents stay."""
        if slots <= self.slots and capacity <= self.capacity:
            return
        new_slots = self.slots if slots <= self.slots else self._rounded(slots)
        new_capacity = self.capacity
        if capacity > self.capacity:
            wanted = max(capacity, self.capacity + self.capacity // 4)
            new_capacity = -(-wanted // CAPACITY_STEP) * CAPACITY_STEP
        grown = self._empty(new_slots, new_capacity)
        grown[:, : self.slots, : self.capacity] = self.kv
        self._take(grown)

    def _rounded(self, slots: int) -> int:
        """Growing by more than is asked keeps the copies rare; a CPU lends untouched memory."""
        on_cpu = self.shape.device.type == "cpu"
        return 1 << (slots - 1).bit_length() if on_cpu else slots + slots // 4

    def release_all(self) -> None:
        """Give the memory back; every slot's content is lost."""
        self._take(self._empty(0, 0))

    def move(self, source: int, target: int, rows: int) -> None:
        """Copy the first ``rows`` of one slot to another."""
        self.kv[:, target, :rows] = self.kv[:, source, :rows]

    def load(self, slot: int, pages: Tensor) -> None:
        """Fill a slot's first rows from ``pages`` [n, layers, page_size, 2 * heads, head_size]."""
        rows = pages.shape[0] * pages.shape[2]
        self.kv[:, slot, :rows] = pages.transpose(0, 1).flatten(1, 2)

    def page(self, slot: int, first_row: int, pages: int, page_size: int) -> Tensor:
        """A view of rows as pages: [pages, layers, page_size, 2 * heads, head_size]."""
        rows = self.kv[:, slot, first_row : first_row + pages * page_size]
        shape = self.shape
        paged = (shape.layers, pages, page_size, 2 * shape.heads, shape.head_size)
        return rows.view(paged).transpose(0, 1)

    def wipe(self, slot: int, first_row: int = 0) -> None:
        """Zero a slot from ``first_row``, so that nothing there can be NaN behind a mask."""
        self.kv[:, slot, first_row:] = 0

    def _empty(self, slots: int, capacity: int) -> Tensor:
        # Zeros, not garbage: a masked weight of 0 times a stray NaN would still be NaN. NumPy asks
        # the system for zeroed pages, which cost nothing until they are touched.
        shape = self.shape
        full = (shape.layers, slots, capacity, 2 * shape.heads, shape.head_size)
        size = prod(full) * shape.dtype.itemsize
        if not size or shape.device.type != "cpu":
            return torch.zeros(full, dtype=shape.dtype, device=shape.device)
        return torch.from_numpy(np.zeros(size, dtype=np.uint8)).view(shape.dtype).view(full)

    def _take(self, kv: Tensor) -> None:
        self.kv = kv
        self.layers = tuple(kv[layer] for layer in range(kv.shape[0]))


class Ragged(NamedTuple):
    """One forward's input: the fresh rows of many requests side by side."""

    requests: tuple[Rows, ...]
    tokens: Tensor  # [T] int64
    positions: Tensor  # [T] int64: context + depth
    writes: Tensor | slice  # [T] rows of a layer flattened over slots and capacity
    stretched: frozenset[int] = frozenset()  # slots whose text is longer than the rotary switch

    def to(self, device: torch.device) -> Ragged:
        """The same on ``device``; nothing is copied where it already lies there."""
        writes = self.writes if isinstance(self.writes, slice) else self.writes.to(device)
        return self._replace(
            tokens=self.tokens.to(device), positions=self.positions.to(device), writes=writes
        )


def ragged(requests: Sequence[Rows], tokens: Sequence[Sequence[int]], capacity: int) -> Ragged:
    """Lay out ``requests``, whose fresh rows carry ``tokens``, for slots of ``capacity`` rows."""
    positions: list[int] = []
    writes: list[int] = []
    for request in requests:
        end = request.slot * capacity + request.context + len(request.parents)
        writes += range(end - request.fresh, end)
        positions += _positions(request)
    alone = len(requests) == 1
    return Ragged(
        tuple(requests),
        torch.tensor(list(itertools.chain.from_iterable(tokens))),
        torch.tensor(positions),
        slice(writes[0], writes[-1] + 1) if alone else torch.tensor(writes),
    )


def _positions(request: Rows) -> Sequence[int]:
    stored, start = len(request.parents), request.context
    if chain_length(request.parents) == stored:
        return range(start + stored - request.fresh, start + stored)
    return [start + depth for depth in depths(request.parents)[stored - request.fresh :].tolist()]
