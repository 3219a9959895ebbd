"""The Gumbel noise of a sampled token: a pure function of seed, choice, target, position, token."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]  # 32-bit values held in 64 bits, so that products keep their high half

_MULTIPLIER_0: Final = np.uint64(0xD2511F53)
_MULTIPLIER_1: Final = np.uint64(0xCD9E8D57)
_WEYL_0: Final = 0x9E3779B9
_WEYL_1: Final = 0xBB67AE85
_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
_ROUNDS: Final = 10

NOISE_CEILING: Final = float(-np.log(-np.log((2**32 - 0.5) * 2.0**-32)))
"""No noise is larger: what trails the best score by more than this can never win (about 22.9)."""


def round_keys(key_0: Words, key_1: Words) -> list[tuple[Words, Words]]:
    """The key of each round, from the two 32-bit words of a key or of many."""
    return [
        ((key_0 + np.uint64(turn * _WEYL_0)) & _LOW, (key_1 + np.uint64(turn * _WEYL_1)) & _LOW)
        for turn in range(_ROUNDS)
    ]


def philox4x32(
    counter: tuple[Words, Words, Words, Words], keys: list[tuple[Words, Words]]
) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10 of Salmon et al. (2011), as in Random123, over arrays that broadcast.

    ``counter``: four uint64 arrays of 32-bit words; ``keys``: from ``round_keys``.
    """
    word_0, word_1, word_2, word_3 = counter
    for key_0, key_1 in keys:
        product_0 = word_0 * _MULTIPLIER_0
        product_1 = word_2 * _MULTIPLIER_1
        word_0 = (product_1 >> _HALF) ^ word_1 ^ key_0
        word_1 = product_1 & _LOW
        word_2 = (product_0 >> _HALF) ^ word_3 ^ key_1
        word_3 = product_0 & _LOW
    return word_0, word_1, word_2, word_3


def noise_key(seed: int, choice: int, weights_digest: bytes) -> tuple[int, int]:
    """Two 32-bit words: 64 bits of BLAKE2b over the three fields, each behind its length."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"got seed {seed}; expected 0 <= seed < 2**64")
    if not 0 <= choice < 2**32:
        raise ValueError(f"got choice {choice}; expected 0 <= choice < 2**32")
    fields = (struct.pack("<Q", seed), struct.pack("<I", choice), weights_digest)
    message = b"".join(struct.pack("<Q", len(field)) + field for field in fields)
    low, high = struct.unpack("<II", hashlib.blake2b(message, digest_size=8).digest())
    return int(low), int(high)


def noise_counter(position: int, tokens: NDArray[np.int64]) -> tuple[Words, Words, Words, Words]:
    """The counter of ``tokens`` [K] at ``position``: token, position low, position high, 0."""
    return (
        tokens.astype(np.uint64),
        np.asarray(position & 0xFFFFFFFF, dtype=np.uint64),
        np.asarray(position >> 32, dtype=np.uint64),
        np.asarray(0, dtype=np.uint64),
    )


def gumbel(words: Words) -> NDArray[np.float64]:
    """Standard Gumbel variates of 32-bit ``words``: u = (k + 1/2) / 2**32, -log(-log u)."""
    noise: NDArray[np.float64] = -np.log(-np.log((words + 0.5) * 2.0**-32))
    return noise


class TargetNoise:
    """Noise keyed to one choice of one request on one target.

    Satisfies ``drafting.source.PositionNoise``: a draft model that draws with it agrees with the
    target more often than one that draws with its own.
    """

    __slots__ = ("_keys",)

    def __init__(self, seed: int, choice: int, weights_digest: bytes) -> None:
        """``seed``: 64 bits, ``choice``: 32 bits, both unsigned; ``weights_digest``: any bytes.

        Raises:
            ValueError: ``seed`` or ``choice`` out of range.
        """
        low, high = noise_key(seed, choice, weights_digest)
        self._keys = round_keys(np.asarray(low, np.uint64), np.asarray(high, np.uint64))

    def __call__(self, position: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Noise of ``tokens`` [K] at absolute position ``position``; float64 [K]."""
        return gumbel(philox4x32(noise_counter(position, tokens), self._keys)[0])
