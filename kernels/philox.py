"""Gumbel noise of tokens at a position, from Philox4x32-10, in NumPy."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

NOISE_CEILING: Final = float(-np.log(-np.log((2**32 - 0.5) * 2.0**-32)))
"""No noise is larger (about 22.9)."""

_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)


def token_noise(
    tokens: NDArray[np.int64], position: int, key: tuple[int, int]
) -> NDArray[np.float64]:
    """Noise of ``tokens`` [K] at absolute ``position`` under two 32-bit words of key; float64 [K].

    The word is Philox4x32-10 (Salmon et al., 2011) of the counter (token, position low, position
    high, 0); the noise is ``-log(-log((word + 1/2) / 2**32))``.
    """
    zero = np.zeros(len(tokens), dtype=np.uint64)
    word_0, word_1 = tokens.astype(np.uint64), zero + np.uint64(position & 0xFFFFFFFF)
    word_2, word_3 = zero + np.uint64(position >> 32), zero
    for turn in range(10):
        key_0 = np.uint64((key[0] + turn * 0x9E3779B9) & 0xFFFFFFFF)
        key_1 = np.uint64((key[1] + turn * 0xBB67AE85) & 0xFFFFFFFF)
        product_0, product_1 = word_0 * np.uint64(0xD2511F53), word_2 * np.uint64(0xCD9E8D57)
        word_0, word_1 = (product_1 >> _HALF) ^ word_1 ^ key_0, product_1 & _LOW
        word_2, word_3 = (product_0 >> _HALF) ^ word_3 ^ key_1, product_0 & _LOW
    noise: NDArray[np.float64] = -np.log(-np.log((word_0 + 0.5) * 2.0**-32))
    return noise
