"""What the card itself can do: how fast it copies, and how fast it multiplies matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch

from benchmarks.kernels.timing import median_seconds


class Ceilings(NamedTuple):
    """Measured on this card in this run."""

    copy: float  # bytes read and written a second
    matrix: float  # floating-point operations a second


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, size: int) -> Ceilings:
    """Copies ``size ** 2`` elements 16 times over, and multiplies two square matrices."""
    source = torch.randn((16 * size, size), device=device).to(dtype)
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    copying = median_seconds([lambda: target.copy_(source)], device, 20)
    left, right = source[:size], source[size : 2 * size]
    out = torch.empty((size, size), dtype=dtype, device=device)
    multiplying = median_seconds([lambda: torch.mm(left, right, out=out)], device, 20)
    return Ceilings(moved / copying, 2 * size**3 / multiplying)
