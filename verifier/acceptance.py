"""The one rule of verification: walk the tree as long as it carries the target's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drafting.source import PositionNoise
from drafting.tree import DraftTree
from verifier.margin import NARROW_FLOAT32
from verifier.processors import Processors


class Verdict(NamedTuple):
    """What the target said about one draft tree."""

    path: tuple[int, ...]  # accepted nodes, from the root down
    tokens: tuple[int, ...]  # accepted tokens, then the bonus token: len(path) + 1
    rows: tuple[int, ...]  # row of the logits that decided each token
    margins: tuple[float, ...]  # decision margin of each token
    narrow: int  # how many margins lie below the bound


class ChoiceSampler:
    """The sampling rule of one choice: a pure function of logits, parameters, seed and position.

    Build one per request; call ``verify`` at each step (also without a draft: the empty tree), then
    ``commit`` the tokens that were really emitted. Survives preemption: it knows no cache.
    """

    def __init__(
        self,
        processors: Processors,
        noise: PositionNoise | None,
        *,
        prompt_tokens: int,
        narrow_bound: float = NARROW_FLOAT32,
    ) -> None:
        """``noise``: None at temperature 0; ``prompt_tokens``: the first output token's position."""
        raise NotImplementedError

    def verify(
        self,
        tree: DraftTree,
        logits: NDArray[np.float32],
        *,
        greedy: NDArray[np.int64] | None = None,
    ) -> Verdict:
        """Walk ``tree``. Leaves the sampler as it was.

        ``logits``: [1 + N, V], row 0 after the last committed token, row 1 + i after node i; only rows
        on the walked path are read. ``greedy``: their argmax [1 + N] where the engine has it, used
        when no processor applies.
        """
        raise NotImplementedError

    def commit(self, tokens: Sequence[int]) -> None:
        """Take ``tokens`` into the committed output."""
        raise NotImplementedError
