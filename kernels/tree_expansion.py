"""Parents of many trees to ancestor words, depths and positions, on the device they lie on."""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

import torch
from torch import Tensor

from kernels.backend import triton_serves
from kernels.errors import KernelError
from kernels.paged_memory import WORD_BITS, expect
from kernels.tiles import padded
from kernels.tree_words import ancestor_words, chain_length, check_parents
from kernels.tree_words import depths as depths_of

MOST_WORDS: Final = 4  # trees to 256 rows


class Expansion(NamedTuple):
    """Who sees whom and where, for S rows of many requests."""

    words: Tensor  # [S, W] int64: bit j of word w: row 64 w + j is an ancestor or the row itself
    depths: Tensor  # [S] int32: position minus context
    positions: Tensor  # [S] int64


def expand_trees(
    parents: Tensor,
    starts: Tensor,
    contexts: Tensor,
    *,
    words: int,
    out: Expansion | None = None,
    debug: bool = False,
) -> Expansion:
    """Tell every row its ancestors, depth and position, in one launch.

    Shapes: S rows, B requests.
    Args:
        parents: (S,) int32 contiguous: an earlier row of the same request, counted from its first,
            or -1 for a child of the context.
        starts: (B + 1,) int32 contiguous: first row of each request, then the end of the last.
        contexts: (B,) int32 contiguous: committed tokens of each request.
        words: W, 1 to 4. A request of more than ``64 * W`` rows must be a chain; its words are 0.
        out: (S, W) int64, (S,) int32 and (S,) int64, contiguous; None allocates it.
        debug: look at the values as well; waits for the device. On a CPU they are always looked at.
    Returns: ``out``; rows past ``starts[B]`` are left as they were.
    Raises: KernelError: shapes, dtypes or devices disagree; where values are looked at, a parent
        that does not come before its child, or a tree with more rows than bits.
    Accuracy: exact.
    """
    if not 1 <= words <= MOST_WORDS:
        raise KernelError(f"got {words} words; expected 1 to {MOST_WORDS}")
    expect("parents", parents, (None,), torch.int32, parents.device, contiguous=True)
    expect("contexts", contexts, (None,), torch.int32, parents.device, contiguous=True)
    requests = contexts.shape[0]
    expect("starts", starts, (requests + 1,), torch.int32, parents.device, contiguous=True)
    out = _empty(parents, words) if out is None else out
    _check_out(out, parents, words)
    if debug or parents.device.type == "cpu":
        _check_values(parents, starts, words)
    if not requests:
        return out
    if triton_serves(parents.device):
        from kernels.triton_expansion import expand_parents

        rows = padded(words) * WORD_BITS
        expand_parents[(requests,)](
            *out, parents, starts, contexts,
            WORDS=words, WIDE=padded(words), ROWS=rows, ROUNDS=rows.bit_length() - 1, num_warps=4,
        )  # fmt: skip
    else:
        _expand_with_numpy(parents, starts, contexts, out)
    return out


def _empty(parents: Tensor, words: int) -> Expansion:
    rows, device = parents.shape[0], parents.device
    return Expansion(
        torch.empty((rows, words), dtype=torch.int64, device=device),
        torch.empty(rows, dtype=torch.int32, device=device),
        torch.empty(rows, dtype=torch.int64, device=device),
    )


def _check_out(out: Expansion, parents: Tensor, words: int) -> None:
    rows, device = parents.shape[0], parents.device
    expect("out.words", out.words, (rows, words), torch.int64, device, contiguous=True)
    expect("out.depths", out.depths, (rows,), torch.int32, device, contiguous=True)
    expect("out.positions", out.positions, (rows,), torch.int64, device, contiguous=True)


def _check_values(parents: Tensor, starts: Tensor, words: int) -> None:
    every, edges = parents.tolist(), starts.tolist()
    if edges != sorted(edges) or edges[0] < 0 or edges[-1] > len(every):
        raise KernelError(f"got starts {edges}; expected ascending, from 0 to {len(every)}")
    for first, end in pairwise(edges):
        own = every[first:end]
        check_parents(own)
        if len(own) > words * WORD_BITS and chain_length(own) < len(own):
            raise KernelError(
                f"got a tree of {len(own)} rows and {words} words; expected at most "
                f"{words * WORD_BITS} rows"
            )


def _expand_with_numpy(parents: Tensor, starts: Tensor, contexts: Tensor, out: Expansion) -> None:
    every, edges = parents.tolist(), starts.tolist()
    width = out.words.shape[1]
    for (first, end), context in zip(pairwise(edges), contexts.tolist(), strict=True):
        own = every[first:end]
        depth = torch.from_numpy(depths_of(own))
        out.depths[first:end] = depth
        out.positions[first:end] = depth + context
        out.words[first:end] = 0
        if len(own) <= width * WORD_BITS:
            words = torch.from_numpy(ancestor_words(own))
            out.words[first:end, : words.shape[1]] = words


def _reference(parents: Tensor, starts: Tensor, contexts: Tensor, words: int) -> Expansion:
    """The same by following parents, row by row."""
    out = _empty(parents, words)
    out.words.zero_()
    for request, (first, end) in enumerate(pairwise(starts.tolist())):
        for row in range(end - first):
            node, depth, bits = row, -1, 0
            while node >= 0:
                depth, bits = depth + 1, bits | 1 << node
                node = int(parents[first + node])
            out.depths[first + row] = depth
            out.positions[first + row] = depth + int(contexts[request])
            if end - first <= words * WORD_BITS:
                for word in range(words):
                    part = bits >> word * WORD_BITS & (2**WORD_BITS - 1)
                    out.words[first + row, word] = part - (part >> 63 << 64)
    return out
