"""Ancestors, depths and positions from parents by pointer doubling, in Triton."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def expand_parents(
    words, depths, positions, parents, starts, contexts,
    WORDS: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """One request. ``ROWS`` is what the words have bits for; a longer request is a chain."""
    request = tl.program_id(0)
    start = tl.load(starts + request)
    size = tl.load(starts + request + 1) - start
    context = tl.load(contexts + request).to(tl.int64)
    row = tl.arange(0, ROWS)
    word = tl.arange(0, WIDE)
    if size <= ROWS:
        up = tl.load(parents + start + row, mask=row < size, other=-1)
        up = tl.where(up < row, up, -1)  # whatever was given, the walk ends
        one = tl.full([ROWS, WIDE], 1, tl.int64)
        own = one << (row % 64).to(tl.int64)[:, None]
        seen = tl.where((row // 64)[:, None] == word[None, :], own, 0)
        depth = tl.where(up >= 0, 1, 0)
        for _ in tl.static_range(ROUNDS):  # each round looks twice as far up
            higher = tl.where(up >= 0, up, 0)
            rows = tl.broadcast_to(higher[:, None], [ROWS, WIDE])
            more = tl.gather(seen, rows, 0)
            seen = seen | tl.where((up >= 0)[:, None], more, 0)
            depth = depth + tl.where(up >= 0, tl.gather(depth, higher, 0), 0)
            up = tl.where(up >= 0, tl.gather(up, higher, 0), -1)
        at = (start + row).to(tl.int64)
        mask = (row < size)[:, None] & (word < WORDS)[None, :]
        tl.store(words + at[:, None] * WORDS + word[None, :], seen, mask=mask)
        tl.store(depths + at, depth, mask=row < size)
        tl.store(positions + at, context + depth, mask=row < size)
    else:
        for first in range(0, size, ROWS):
            depth = first + row
            at = (start + depth).to(tl.int64)
            inside = depth < size
            mask = inside[:, None] & (word < WORDS)[None, :]
            nothing = tl.zeros([ROWS, WIDE], tl.int64)
            tl.store(words + at[:, None] * WORDS + word[None, :], nothing, mask=mask)
            tl.store(depths + at, depth, mask=inside)
            tl.store(positions + at, context + depth, mask=inside)
