"""Measures at start what a forward costs on this machine: its tokens, requests and contexts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from drafting.cost import Load, Pace, Sample, StepCost, fit
from kernels.tree_attention import Rows
from verifier.loading import LoadedModel
from verifier.network import Network
from verifier.rows import ContextRows, ragged

CONTEXT: Final = 64
LONG_CONTEXT: Final = 1024
REQUESTS: Final = 8
SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
LONG_SIZES: Final = (1, 16)
REPEATS: Final = 5
BUDGET_S: Final = 1.0
ENOUGH: Final = 4  # shapes without which a cost says nothing


class MachineCosts:
    """What every model costs on this machine; all share its pace."""

    def __init__(self, models: Mapping[str, LoadedModel], *, budget_s: float = BUDGET_S) -> None:
        self.pace = Pace()
        self._models = models
        self._budget_s = budget_s
        self._samples: dict[str, list[Sample]] = {}

    def of(self, name: str) -> StepCost:
        """A fresh estimate for one use of a model, from measurements made once.

        To decode with a model and to draft with it cost differently, so each use learns its own.
        """
        if name not in self._samples:
            model = self._models[name]
            self._samples[name] = measure(
                model.network, longest=model.max_model_len, budget_s=self._budget_s
            )
        return fit(self._samples[name], pace=self.pace)


def measure(
    network: Network, *, longest: int = 2 * LONG_CONTEXT, budget_s: float = BUDGET_S
) -> list[Sample]:
    """The best of a few forwards of each shape; stops early when ``budget_s`` is spent.

    ``longest``: tokens of the longest context the model takes.
    """
    caches = {requests: ContextRows(network.cache_shape) for requests in (1, REQUESTS)}
    context = min(CONTEXT, longest // 2)
    short = [_alone(rows, context) for rows in SIZES if rows + context <= longest]
    short.append(Load(REQUESTS, REQUESTS, REQUESTS * context, REQUESTS * context))
    long = [_alone(rows, LONG_CONTEXT) for rows in LONG_SIZES if rows + LONG_CONTEXT <= longest]
    _seconds(network, caches[1], short[0])  # the first one also pays for setting things up
    deadline = time.perf_counter() + budget_s
    best: dict[Load, float] = {}
    for shape in (*short * 2, *long, *(short + long) * (REPEATS - 2)):
        if len(best) >= ENOUGH and time.perf_counter() > deadline:
            break
        seconds = _seconds(network, caches[shape.requests], shape)
        best[shape] = min(best.get(shape, float("inf")), seconds)
    return [Sample(shape, seconds) for shape, seconds in best.items()]


def _alone(rows: int, context: int) -> Load:
    return Load(rows, 1, context, rows * context)


def _seconds(network: Network, cache: ContextRows, shape: Load) -> float:
    each, context = shape.rows // shape.requests, int(shape.context) // shape.requests
    cache.ensure(shape.requests, context + each)
    rows = [Rows(slot, context, range(-1, each - 1), each) for slot in range(shape.requests)]
    batch = ragged(rows, [[0] * each] * shape.requests, cache.capacity)
    started = time.perf_counter()
    network.forward(batch, cache).cpu().max(dim=-1)  # on the host, as the decoder wants them
    return time.perf_counter() - started
