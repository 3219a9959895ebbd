"""How large the tiles of attention are, by rows, head size and dtype: a table, no tuning."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch

from kernels.errors import KernelError

HEAD_SIZES: Final = (32, 64, 80, 96, 128, 256)
DTYPES: Final = (torch.float16, torch.bfloat16, torch.float32)
WHOLE: Final = 2**30  # a chunk that no context fills: no split


class Tile(NamedTuple):
    """One program's share of the work, and what it is compiled with."""

    rows: int  # packed query rows: node x group; a power of two from 16
    columns: int  # keys taken at once; a power of two from 16 to 64
    warps: int
    stages: int  # loads in flight


# Keyed by (rows, head size padded to a power of two). From 64 rows on four warps can issue the wide
# matrix instructions of Hopper; tiles of 16 and 32 rows pad decoding as little as possible. In
# float32 there are no matrix instructions of full precision: tiles are as small as keeps the
# compiler from spilling registers much (python -m benchmarks.kernels.compilation --all).
HALF: Final[dict[tuple[int, int], Tile]] = {
    (16, 64): Tile(16, 64, 4, 4),
    (32, 64): Tile(32, 64, 4, 4),
    (64, 64): Tile(64, 64, 4, 3),
    (128, 64): Tile(128, 64, 8, 3),
    (16, 128): Tile(16, 64, 4, 3),
    (32, 128): Tile(32, 64, 4, 3),
    (64, 128): Tile(64, 64, 4, 3),
    (128, 128): Tile(128, 64, 8, 3),
    (16, 256): Tile(16, 32, 4, 3),
    (32, 256): Tile(32, 32, 4, 3),
    (64, 256): Tile(64, 32, 8, 2),
    (128, 256): Tile(64, 32, 8, 2),
}
SINGLE: Final[dict[tuple[int, int], Tile]] = {
    (16, 64): Tile(16, 32, 4, 2),
    (32, 64): Tile(32, 32, 4, 2),
    (64, 64): Tile(64, 32, 8, 2),
    (128, 64): Tile(64, 32, 8, 2),
    (16, 128): Tile(16, 32, 8, 2),
    (32, 128): Tile(32, 32, 8, 2),
    (64, 128): Tile(32, 32, 8, 2),
    (128, 128): Tile(32, 32, 8, 2),
    (16, 256): Tile(16, 16, 8, 2),
    (32, 256): Tile(16, 16, 8, 2),
    (64, 256): Tile(16, 16, 8, 2),
    (128, 256): Tile(16, 16, 8, 2),
}


def padded(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()


def tile_for(rows: int, head_size: int, dtype: torch.dtype) -> Tile:
    """The tile of a batch whose largest request has ``rows`` packed rows.

    Raises:
        KernelError: a head size or dtype outside ``HEAD_SIZES`` and ``DTYPES``.
    """
    if head_size not in HEAD_SIZES:
        raise KernelError(f"got head size {head_size}; expected one of {HEAD_SIZES}")
    if dtype not in DTYPES:
        raise KernelError(f"got {dtype}; expected one of {DTYPES}")
    bucket = min(128, max(16, padded(rows)))
    table = SINGLE if dtype == torch.float32 else HALF
    return table[bucket, max(64, padded(head_size))]


def chunk_for(rows: int) -> int:
    """Context tokens of one split of a request with ``rows`` packed rows.

    A constant of the request alone, never of its neighbours: what a row adds up, and in which
    order, must not depend on who else is being served. Partial results cost
    ``2 * rows / chunk`` of the traffic of half-precision keys and values, so that many rows take
    larger chunks, and whole prompts are not split: their rows fill the machine by themselves.
    """
    if rows <= 64:
        return 2048
    return 8192 if rows <= 512 else WHOLE
