"""From raw logits of one node to the tokens that may follow it, with their scaled logits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from verifier.request import SamplingParams


class Survivors(NamedTuple):
    """Tokens left by every filter, ids ascending; ``logits`` are scaled by temperature (raw at 0)."""

    tokens: NDArray[np.int64]  # [K], K >= 1
    logits: NDArray[np.float64]  # [K]
    boundary: float  # distance of the nearest token from a filter's boundary; inf without one


def greedy_tokens(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Likeliest token of every row [T, V] -> [T]; the lowest id wins a tie."""
    raise NotImplementedError


class Processors:
    """The processors of one choice and the token counts they need.

    ``push`` and ``pop`` move along a branch; what stays pushed is the committed output.
    """

    def __init__(
        self,
        sampling: SamplingParams,
        *,
        prompt: Sequence[int],
        min_tokens: int = 0,
        stop_ids: Iterable[int] = (),
        vocab_size: int,
    ) -> None:
        """``stop_ids``: end-of-sequence and stop token ids, banned until ``min_tokens`` are out.

        Raises:
            RequestRefused: a biased or stop token lies outside the vocabulary, or a parameter is
                out of range or not finite.
        """
        raise NotImplementedError

    @property
    def plain_greedy(self) -> bool:
        """Whether a row's argmax is the answer, so that ``greedy_tokens`` of the batch will do."""
        raise NotImplementedError

    def push(self, token: int) -> None:
        """Extend the branch by one token."""
        raise NotImplementedError

    def pop(self) -> None:
        """Take the last pushed token back."""
        raise NotImplementedError

    def survivors(self, logits: NDArray[np.float32]) -> Survivors:
        """What may follow the branch, from its last node's raw ``logits`` [V], which stay unchanged."""
        raise NotImplementedError
