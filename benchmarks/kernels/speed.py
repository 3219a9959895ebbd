"""Attention of one layer: our kernel beside other ways, and how near it comes to the card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from benchmarks.kernels.baselines import Prepared, dense, flashinfer, flex
from benchmarks.kernels.cases import Case, Shape, uniform_case
from benchmarks.kernels.ceilings import Ceilings
from benchmarks.kernels.timing import eager_seconds, median_seconds
from kernels.paged_attention import paged_attention
from kernels.paged_plan import plan_paged_attention
from kernels.tiles import WHOLE, Tile


class Setting(NamedTuple):
    """One row of the table, and what it must reach."""

    batch: int
    context: int
    nodes: int
    bar: float
    of: str  # "copy" or "matrix"
    chunk: int | None = None


# Llama 8B: 32 query heads over 8 key heads of 128.
LLAMA = Shape(128, key_heads=8, groups=4, dtype=torch.bfloat16)
SETTINGS = (
    Setting(32, 8192, 1, 0.90, "copy"),
    Setting(32, 8192, 16, 0.85, "copy"),
    Setting(32, 8192, 32, 0.75, "copy"),
    Setting(32, 8192, 64, 0.60, "matrix"),
    Setting(1, 32768, 16, 0.70, "copy", chunk=512),
)
TOY = Shape(64, key_heads=1, groups=2)
TOY_SETTINGS = (Setting(2, 70, 1, 0.0, "copy"), Setting(1, 130, 5, 0.0, "matrix", chunk=64))

SIXTEEN_ROWS = Tile(16, 32, 4, 3)  # what a kernel does that packs 16 rows and never splits
BEYOND_CACHE = 2**28  # bytes; several times the cache of any card


class Baseline(NamedTuple):
    name: str
    prepare: Callable[[Case], Prepared | None]


BASELINES = (
    Baseline("SDPA, dense mask", dense),
    Baseline("FlexAttention", flex),
    Baseline("FlashInfer", flashinfer),
)


def measure(
    setting: Setting, shape: Shape, ceilings: Ceilings, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Times of every way on one setting, and our share of its ceiling."""
    size = cache_bytes(setting, shape)
    copies = max(1, -(-BEYOND_CACHE // size)) if device.type == "cuda" else 1
    cases = [
        uniform_case(setting.batch, setting.context, setting.nodes, shape, device, seed)
        for seed in range(copies)
    ]
    ours = median_seconds([ours_of(case, setting) for case in cases], device, repeats)
    narrow = median_seconds(
        [ours_of(case, setting._replace(chunk=WHOLE), SIXTEEN_ROWS) for case in cases],
        device, repeats,
    )  # fmt: skip
    share = (
        size / ours / ceilings.copy
        if setting.of == "copy"
        else operations(setting, shape) / ours / ceilings.matrix
    )
    return {
        "setting": setting._asdict(), "copies": copies, "ours_s": ours, "share": share,
        "bytes": size, "operations": operations(setting, shape),
        "floor_s": max(size / ceilings.copy, operations(setting, shape) / ceilings.matrix),
        "sixteen_rows_s": narrow,
        "baselines": dict(_baselines(cases, device, repeats)),
    }  # fmt: skip


def ours_of(case: Case, setting: Setting, tile: Tile | None = None) -> Callable[[], object]:
    """A call of our kernel on static memory."""
    plan = plan_paged_attention(
        case.requests, groups=case.shape.groups, head_size=case.shape.head_size,
        dtype=case.shape.dtype, device=case.q.device, tile=tile, chunk=setting.chunk,
    )  # fmt: skip
    out = torch.empty_like(case.q)
    return lambda: paged_attention(case.q, case.context, case.scratch, plan, out=out)


def _baselines(
    cases: list[Case], device: torch.device, repeats: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    for baseline in BASELINES:
        try:
            prepared = [baseline.prepare(case) for case in cases]
            ready = [one for one in prepared if one is not None]
            if not ready:
                yield baseline.name, {"missing": "not installed"}
                continue
            yield (
                baseline.name,
                {
                    "s": median_seconds([one.run for one in ready], device, repeats),
                    ready[0].setup_name + "_s": eager_seconds(ready[0].setup, device, 5),
                },
            )
        except (RuntimeError, TypeError, AttributeError) as error:
            # Another library's failure is a result too, and must not cost ours.
            yield baseline.name, {"missing": f"{type(error).__name__}: {str(error)[:200]}"}


def cache_bytes(setting: Setting, shape: Shape) -> int:
    """Keys and values read once, queries read and outputs written."""
    columns = setting.batch * (setting.context + setting.nodes) * 2 * shape.key_heads
    rows = setting.batch * setting.nodes * 2 * shape.key_heads * shape.groups
    return (columns + rows) * shape.head_size * shape.dtype.itemsize


def operations(setting: Setting, shape: Shape) -> int:
    """Multiplications and additions of both matrix products."""
    rows = setting.batch * setting.nodes * shape.key_heads * shape.groups
    return 4 * rows * (setting.context + setting.nodes) * shape.head_size
