"""Measures at start what a forward costs on this machine, by its number of tokens."""

from __future__ import annotations

import time

from drafting.cost import StepCost
from kernels.tree_attention import Rows
from verifier.network import Network
from verifier.rows import ContextRows, ragged

SIZES = (1, 2, 4, 8, 16, 32, 64)
CONTEXT = 128
REPEATS = 5
BUDGET_S = 1.0


def measure(network: Network, *, budget_s: float = BUDGET_S) -> StepCost:
    """The best of a few forwards at each size; stops early when ``budget_s`` is spent."""
    cache = ContextRows(network.cache_shape)
    cache.ensure(1, CONTEXT + max(SIZES))
    _seconds(network, cache, 1)  # the first one also pays for setting things up
    deadline = time.perf_counter() + budget_s
    best: dict[int, float] = {}
    for _ in range(REPEATS):
        for size in SIZES:
            if best.keys() >= {1, 8} and time.perf_counter() > deadline:
                return StepCost(list(best.items()))
            best[size] = min(best.get(size, float("inf")), _seconds(network, cache, size))
    return StepCost(list(best.items()))


def _seconds(network: Network, cache: ContextRows, size: int) -> float:
    rows = Rows(0, CONTEXT, range(-1, size - 1), size)
    batch = ragged([rows], [[0] * size], cache.capacity)
    started = time.perf_counter()
    network.forward(batch, cache).cpu().max(dim=-1)  # on the host, as the decoder wants them
    return time.perf_counter() - started
