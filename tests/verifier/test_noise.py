"""Noise is reproducible from its definition alone, on any machine."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from verifier.noise import NOISE_CEILING, TargetNoise, gumbel, noise_key, philox4x32, round_keys

DIGEST = bytes(range(32))

# Known answers of Random123 (kat_vectors, philox4x32 10): counter, key, result.
KNOWN_ANSWERS = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]

# Of seed 42, choice 0, DIGEST; position 100, tokens 0, 1, 2 and 1000.
GOLDEN_KEY = (1842736647, 3936593373)
GOLDEN_NOISE = [-0.15571609104020437, 0.6574933182629077, -0.04909580210494872, -0.508069314294601]


def words(*values: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([value], dtype=np.uint64) for value in values)


def philox_word_0(counter: tuple[int, int, int, int], key: tuple[int, int]) -> int:
    """The algorithm once more, in plain integers."""
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = (
            (second >> 32) ^ counter[1] ^ key[0],
            second & 0xFFFFFFFF,
            (first >> 32) ^ counter[3] ^ key[1],
            first & 0xFFFFFFFF,
        )
        key = ((key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32)
    return counter[0]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    result = philox4x32(words(*counter), round_keys(*words(*key)))
    assert tuple(int(word[0]) for word in result) == expected


def test_noise_follows_its_written_definition():
    noise = TargetNoise(2**64 - 5, 3, DIGEST)
    message = b"".join(
        len(field).to_bytes(8, "little") + field
        for field in ((2**64 - 5).to_bytes(8, "little"), (3).to_bytes(4, "little"), DIGEST)
    )
    digest = hashlib.blake2b(message, digest_size=8).digest()
    key = (int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little"))
    for position in (0, 7, 2**32 + 1):
        tokens = np.array([0, 1, 1999, 151_935])
        counters = [(int(t), position % 2**32, position >> 32, 0) for t in tokens]
        uniforms = [(philox_word_0(counter, key) + 0.5) / 2**32 for counter in counters]
        expected = [-math.log(-math.log(uniform)) for uniform in uniforms]
        assert noise(position, tokens) == pytest.approx(expected, rel=1e-12)


def test_golden_noise_never_changes():
    noise = TargetNoise(42, 0, DIGEST)
    assert noise_key(42, 0, DIGEST) == GOLDEN_KEY
    assert noise(100, np.array([0, 1, 2, 1000])) == pytest.approx(GOLDEN_NOISE, rel=1e-12)


def test_noise_of_a_token_does_not_depend_on_the_tokens_beside_it():
    noise = TargetNoise(1, 0, DIGEST)
    everything = noise(9, np.arange(500))
    chosen = np.array([3, 77, 499])
    assert np.array_equal(noise(9, chosen), everything[chosen])


@pytest.mark.parametrize(
    "other",
    [TargetNoise(2, 0, DIGEST), TargetNoise(1, 1, DIGEST), TargetNoise(1, 0, DIGEST + b"x")],
    ids=["seed", "choice", "weights"],
)
def test_seed_choice_and_weights_each_give_other_noise(other):
    tokens = np.arange(100)
    same = TargetNoise(1, 0, DIGEST)(5, tokens) == other(5, tokens)
    assert not same.any()


def test_positions_give_other_noise():
    noise, tokens = TargetNoise(1, 0, DIGEST), np.arange(100)
    assert not (noise(5, tokens) == noise(6, tokens)).any()
    assert not (noise(5, tokens) == noise(5 + 2**32, tokens)).any()


def test_fields_of_the_key_cannot_run_into_each_other():
    assert noise_key(1, 0, b"") != noise_key(1, 0, b"\0")


def test_noise_is_finite_at_both_ends_and_never_above_its_ceiling():
    ends = gumbel(np.array([0, 2**32 - 1], dtype=np.uint64))
    assert np.isfinite(ends).all()
    assert ends[1] == NOISE_CEILING
    assert ends[0] == pytest.approx(-math.log(33 * math.log(2)))


def test_noise_is_gumbel_distributed():
    noise = np.sort(TargetNoise(7, 0, DIGEST)(0, np.arange(100_000)))
    expected = np.exp(-np.exp(-noise))
    found = (np.arange(100_000) + 0.5) / 100_000
    assert np.abs(expected - found).max() < 1.95 / math.sqrt(100_000)  # Kolmogorov, 0.1 %


@pytest.mark.parametrize(("seed", "choice"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**32)])
def test_seed_and_choice_out_of_range_are_refused(seed, choice):
    with pytest.raises(ValueError, match="expected 0 <="):
        TargetNoise(seed, choice, DIGEST)
