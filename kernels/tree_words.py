"""Who may see whom in a tree: ancestors and depths from an array of parents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kernels.errors import KernelError

WORD_BITS = 64


def check_parents(parents: Sequence[int]) -> None:
    """Raise ``KernelError`` unless every parent is -1 or an earlier row."""
    for index, parent in enumerate(parents):
        if not -1 <= parent < index:
            raise KernelError(f"row {index} has parent {parent}; expected -1 <= parent < {index}")


def chain_length(parents: Sequence[int]) -> int:
    """How many leading rows form a chain that starts at the context."""
    for index, parent in enumerate(parents):
        if parent != index - 1:
            return index
    return len(parents)


def depths(parents: Sequence[int]) -> NDArray[np.int64]:
    """Distance of each row from the end of the context, 0 for its children; int64 [N]."""
    found = np.arange(len(parents), dtype=np.int64)
    for index in range(chain_length(parents), len(parents)):
        parent = parents[index]
        found[index] = 0 if parent < 0 else found[parent] + 1
    return found


def ancestors(parents: Sequence[int]) -> NDArray[np.bool_]:
    """``[i, j]``: row j is row i or one of its ancestors; bool [N, N]."""
    size, chain = len(parents), chain_length(parents)
    seen = np.zeros((size, size), dtype=np.bool_)
    seen[:chain, :chain] = np.tri(chain, dtype=np.bool_)
    for index in range(chain, size):
        if parents[index] >= 0:
            seen[index] = seen[parents[index]]
        seen[index, index] = True
    return seen


def ancestor_words(parents: Sequence[int]) -> NDArray[np.int64]:
    """``ancestors`` as bits: bit j of word w of row i is ``[i, 64 w + j]``; int64 [N, W]."""
    seen = ancestors(parents)
    words = -(-len(parents) // WORD_BITS)
    padded = np.zeros((len(parents), words * WORD_BITS), dtype=np.bool_)
    padded[:, : len(parents)] = seen
    packed = np.packbits(padded, axis=1, bitorder="little")
    return packed.view("<i8").astype(np.int64, copy=False).reshape(len(parents), words)
