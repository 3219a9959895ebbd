"""From raw logits of one node to the tokens that may follow it, with their scaled logits.

The order is fixed: repetition penalty, presence and frequency penalty, logit bias, minimum length,
temperature, top-k, top-p, min-p. All ties are broken towards the lowest token id.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drafting.source import COLDEST
from verifier.errors import RequestRefused, VerifierError
from verifier.request import SamplingParams

Tokens = NDArray[np.int64]
Logits = NDArray[np.float64]

_NUCLEUS_GUESS: Final = 64  # tokens sorted first when looking for a nucleus; grows as needed


class Survivors(NamedTuple):
    """Tokens left by every filter, ids ascending."""

    tokens: Tokens  # [K], K >= 1
    logits: Logits  # [K], divided by the temperature unless it is 0
    boundary: float  # distance of the nearest token from a filter's boundary; inf without one


class _Kept(NamedTuple):
    """Outcome of one filter over ``logits`` [K]: kept indices, ascending, and its boundary."""

    indices: Tokens
    boundary: float


_Filter = Callable[[Logits], _Kept]


def check_sampling(sampling: SamplingParams, *, vocab_size: int) -> None:
    """Refuse parameters that are not finite or out of OpenAI's and vLLM's ranges.

    Raises:
        RequestRefused: with ``param`` naming the field.
    """
    ranges = {
        "temperature": (0.0, 100.0),
        "top_p": (0.0, 1.0),
        "min_p": (0.0, 1.0),
        "presence_penalty": (-2.0, 2.0),
        "frequency_penalty": (-2.0, 2.0),
        "repetition_penalty": (0.01, 100.0),  # less would multiply logits beyond all numbers
        "top_k": (0, math.inf),
    }
    for name, (low, high) in ranges.items():
        value = getattr(sampling, name)
        above = low < value if name == "top_p" else low <= value
        if not (above and value <= high):  # also refuses NaN
            raise RequestRefused(f"{name} is {value}; expected {low:g} to {high:g}", param=name)
    for token, bias in sampling.logit_bias.items():
        if not (0 <= token < vocab_size and -100.0 <= bias <= 100.0):
            raise RequestRefused(
                f"logit_bias has {token}: {bias}; expected a token below {vocab_size} "
                "and a bias of -100 to 100",
                param="logit_bias",
            )


class _Counts:
    """How often each token occurs in the output of one branch; steps along it are O(1)."""

    def __init__(self) -> None:
        self._slot: dict[int, int] = {}
        self._ids = np.zeros(64, dtype=np.int64)
        self._counts = np.zeros(64, dtype=np.float64)

    def add(self, token: int, by: int) -> None:
        slot = self._slot.setdefault(token, len(self._slot))
        if slot == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[slot] = token
        self._counts[slot] += by

    def arrays(self) -> tuple[Tokens, Logits]:
        """Token ids [U] and counts [U]; a count may be 0 after a step back."""
        used = len(self._slot)
        return self._ids[:used], self._counts[:used]


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
            RequestRefused: a parameter is out of range or not finite, or a biased token lies
                outside the vocabulary.
        """
        check_sampling(sampling, vocab_size=vocab_size)
        self.sampling = sampling
        self._min_tokens = min_tokens
        self._banned = np.array([t for t in sorted(set(stop_ids)) if t < vocab_size], np.int64)
        self._bias_ids = np.array(list(sampling.logit_bias.keys()), dtype=np.int64)
        self._bias = np.array(list(sampling.logit_bias.values()), dtype=np.float64)
        self._repeats = sampling.repetition_penalty != 1.0
        self._penalises = sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        self._prompt_ids = np.unique(np.array(prompt if self._repeats else (), dtype=np.int64))
        self._filters = _filters(sampling)
        self._branch: list[int] = []
        self._counts = _Counts()

    @property
    def output_length(self) -> int:
        """Tokens pushed so far."""
        return len(self._branch)

    @property
    def plain_greedy(self) -> bool:
        """Whether a row's argmax is the answer, so that the peaks of a batch will do."""
        return self.sampling.temperature == 0.0 and not self._changes_logits

    @property
    def _bans_stops(self) -> bool:
        return len(self._banned) > 0 and len(self._branch) < self._min_tokens

    @property
    def _changes_logits(self) -> bool:
        biased = len(self._bias_ids) > 0
        return self._repeats or self._penalises or biased or self._bans_stops

    def push(self, token: int) -> None:
        """Extend the branch by one token."""
        self._branch.append(token)
        if self._repeats or self._penalises:
            self._counts.add(token, 1)

    def pop(self) -> None:
        """Take the last pushed token back."""
        token = self._branch.pop()
        if self._repeats or self._penalises:
            self._counts.add(token, -1)

    def survivors(self, logits: NDArray[np.float32]) -> Survivors:
        """What may follow the branch, from its last node's raw ``logits`` [V], left unchanged.

        Raises:
            VerifierError: a logit is NaN.
        """
        changed = logits.astype(np.float64)
        if self._changes_logits:
            self._change(changed)
        if self.sampling.temperature == 0.0:
            return Survivors(np.arange(len(changed)), changed, math.inf)
        changed /= max(self.sampling.temperature, COLDEST)
        return self._filter(changed)

    def _change(self, logits: Logits) -> None:
        """Everything that depends on the branch, in place."""
        seen, counts = self._counts.arrays()
        if self._repeats:
            ids = np.unique(np.concatenate([self._prompt_ids, seen[counts > 0]]))
            at = logits[ids]
            penalty = self.sampling.repetition_penalty
            logits[ids] = np.where(at > 0, at / penalty, at * penalty)
        if self._penalises:
            logits[seen] -= self.sampling.frequency_penalty * counts
            logits[seen] -= self.sampling.presence_penalty * (counts > 0)
        logits[self._bias_ids] += self._bias
        if self._bans_stops:
            logits[self._banned] = -math.inf

    def _filter(self, logits: Logits) -> Survivors:
        """Apply every filter to scaled logits [V]; each sees what the one before left."""
        boundary = math.inf
        tokens = np.flatnonzero(logits > -math.inf)
        if len(tokens) < len(logits):
            _refuse_nan(logits)
            logits = logits[tokens]
        if not len(tokens):
            raise VerifierError("every token is ruled out; expected one that may follow")
        for keep in self._filters:
            kept = keep(logits)
            boundary = min(boundary, kept.boundary)
            tokens, logits = tokens[kept.indices], logits[kept.indices]
        return Survivors(tokens, logits, boundary)


def _refuse_nan(logits: Logits) -> None:
    wrong = np.flatnonzero(np.isnan(logits))
    if len(wrong) > 0:
        raise VerifierError(f"got NaN as logit of token {wrong[0]}; expected a number")


def _filters(sampling: SamplingParams) -> list[_Filter]:
    """Those that can drop a token, in their order."""
    filters: list[_Filter] = []
    if sampling.top_k > 0:
        filters.append(partial(_top_k, top_k=sampling.top_k))
    if sampling.top_p < 1.0:
        filters.append(partial(_top_p, top_p=sampling.top_p))
    if sampling.min_p > 0.0:
        filters.append(partial(_min_p, min_p=sampling.min_p))
    return filters


def _largest_first(logits: Logits, count: int) -> Tokens:
    """Indices of the ``count`` largest and of all that tie with the last, ties by lowest index."""
    if count >= len(logits):
        return np.argsort(-logits, kind="stable")
    edge = np.partition(logits, len(logits) - count)[len(logits) - count]
    index = np.flatnonzero(logits >= edge)
    return index[np.argsort(-logits[index], kind="stable")]


def _top_k(logits: Logits, top_k: int) -> _Kept:
    """The ``top_k`` largest; the boundary is their gap to the next one."""
    if top_k >= len(logits):
        return _Kept(np.arange(len(logits)), math.inf)
    first = _largest_first(logits, top_k + 1)
    gap = float(logits[first[top_k - 1]] - logits[first[top_k]])
    return _Kept(np.sort(first[:top_k]), gap)


def _top_p(logits: Logits, top_p: float) -> _Kept:
    """The smallest set of likeliest tokens that holds ``top_p`` of the probability.

    Its boundary is the nearest of: the mass without and with the last token kept, against
    ``top_p``, and the gap of that token to the first one dropped.
    """
    weights = np.exp(logits - logits.max())
    wanted = top_p * float(weights.sum())
    guess = _NUCLEUS_GUESS
    while True:
        first = _largest_first(logits, guess + 1)
        mass = np.cumsum(weights[first])
        if len(first) == len(logits) or mass[-2] >= wanted:
            break
        guess *= 8
    size = min(int(np.searchsorted(mass, wanted)) + 1, len(first))
    return _Kept(np.sort(first[:size]), _nucleus_boundary(logits[first], mass, size, wanted, top_p))


def _nucleus_boundary(
    ordered: Logits, mass: Logits, size: int, wanted: float, top_p: float
) -> float:
    """How near the nucleus of the first ``size`` of ``ordered`` came to another size, or order."""
    scale = top_p / wanted  # from weights to probabilities
    before = float(mass[size - 2]) if size > 1 else -math.inf
    distance = min(wanted - before, float(mass[size - 1]) - wanted) * scale
    if size < len(ordered):
        distance = min(distance, float(ordered[size - 1] - ordered[size]))
    return max(distance, 0.0)


def _min_p(logits: Logits, min_p: float) -> _Kept:
    """Tokens at least ``min_p`` times as likely as the likeliest, judged by their logits."""
    above = logits - (logits.max() + math.log(min_p))
    distance = np.abs(above)
    distance[logits == logits.max()] = math.inf  # the likeliest itself stays whatever happens
    return _Kept(np.flatnonzero(above >= 0), float(distance.min()))
