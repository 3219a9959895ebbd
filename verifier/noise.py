"""The Gumbel noise of a sampled token: a pure function of seed, choice, target, position and token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class TargetNoise:
    """Noise keyed to one choice of one request on one target; satisfies ``drafting.source.PositionNoise``."""

    def __init__(self, seed: int, choice: int, weights_digest: bytes) -> None:
        """``seed``: 64 bits, unsigned; ``choice``: 32 bits; ``weights_digest``: any bytes of the target's weights.

        Raises:
            ValueError: ``seed`` or ``choice`` out of range.
        """
        raise NotImplementedError

    def __call__(self, position: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Noise of ``tokens`` [K] at absolute position ``position``; float64 [K]."""
        raise NotImplementedError
