"""The one rule of verification: walk the tree as long as it carries the target's own tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drafting.source import PositionNoise
from drafting.tree import ROOT, DraftTree
from verifier.errors import VerifierError
from verifier.margin import NARROW, Narrow, decision_margin, error_stretch, relative_margin, top_gap
from verifier.noise import NOISE_CEILING
from verifier.peaks import Peaks
from verifier.processors import Processors

_PRUNE_FROM: Final = 512  # survivors from which looking for hopeless ones first pays
_MARGIN_KEPT: Final = 1.0  # margins up to this stay exact when hopeless tokens are pruned


class Verdict(NamedTuple):
    """What the target said about one draft tree."""

    path: tuple[int, ...]  # accepted nodes, from the root down
    tokens: tuple[int, ...]  # accepted tokens, then the bonus token: len(path) + 1
    rows: tuple[int, ...]  # row of the logits that decided each token
    margins: tuple[float, ...]  # decision margin of each token, relative in half precision
    narrow: int  # how many margins lie below the bound


class Decision(NamedTuple):
    """One token of the target and how far it was from being another."""

    token: int
    margin: float


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
        narrow: Narrow = NARROW["float32"],
    ) -> None:
        """``noise``: None at temperature 0; ``prompt_tokens``: position of the first output token.

        Raises:
            ValueError: a temperature above 0 without noise.
        """
        temperature = processors.sampling.temperature
        if temperature > 0.0 and noise is None:
            raise ValueError(f"got no noise at temperature {temperature}; expected some")
        self._processors = processors
        self._noise = noise
        self._prompt_tokens = prompt_tokens
        self._narrow = narrow

    @property
    def position(self) -> int:
        """Absolute position of the next token."""
        return self._prompt_tokens + self._processors.output_length

    def verify(
        self,
        tree: DraftTree,
        logits: NDArray[np.float32],
        *,
        peaks: Peaks | None = None,
    ) -> Verdict:
        """Walk ``tree``. Leaves the sampler as it was.

        ``logits``: [1 + N, V], row 0 after the last committed token, row 1 + i after node i; only
        rows on the walked path are read. ``peaks``: of these rows where the engine has them,
        used when no processor applies.

        Raises:
            VerifierError: a row on the path holds NaN, or leaves no token to choose.
        """
        plain = peaks if self._processors.plain_greedy else None
        children = _children(tree)
        path: list[int] = []
        decisions: list[Decision] = []
        node: int | None = ROOT
        while node is not None:
            row = node + 1
            decision = self.decide(logits[row]) if plain is None else self._peak(plain, row)
            decisions.append(decision)
            node = children.get((node, decision.token))
            if node is not None:
                path.append(node)
                self._processors.push(decision.token)
        for _ in path:
            self._processors.pop()
        return self._verdict(path, decisions)

    def decide(self, logits: NDArray[np.float32]) -> Decision:
        """The token after the branch, from its end's raw ``logits`` [V]."""
        decision = self._decide(logits)
        if not self._narrow.relative:
            return decision
        return Decision(decision.token, relative_margin(decision.margin, float(logits.max())))

    def _peak(self, peaks: Peaks, row: int) -> Decision:
        token, top, gap = peaks.tokens[row], peaks.logits[row], peaks.gaps[row]
        _refuse_nan(top)
        return Decision(token, relative_margin(gap, top) if self._narrow.relative else gap)

    def _decide(self, logits: NDArray[np.float32]) -> Decision:
        """With its margin as a distance of logits."""
        if self._processors.plain_greedy:
            return _likeliest(logits)
        survivors = self._processors.survivors(logits)
        if self._noise is None:
            return self._scaled(_likeliest(survivors.logits))
        return self._draw(*survivors)

    def commit(self, tokens: Sequence[int]) -> None:
        """Take ``tokens`` into the committed output."""
        for token in tokens:
            self._processors.push(token)

    def _draw(
        self, tokens: NDArray[np.int64], logits: NDArray[np.float64], boundary: float
    ) -> Decision:
        """The largest ``logits + noise``; the lowest id wins a tie."""
        assert self._noise is not None
        if len(tokens) >= _PRUNE_FROM:
            tokens, logits = self._without_hopeless(tokens, logits)
        scores = logits + self._noise(self.position, tokens)
        index = int(scores.argmax())
        _refuse_nan(float(scores[index]))
        return self._scaled(Decision(int(tokens[index]), top_gap(scores, index)), boundary)

    def _scaled(self, decision: Decision, boundary: float = math.inf) -> Decision:
        """With its margin as an error of raw logits would have to be."""
        sampling = self._processors.sampling
        margin = decision_margin(
            decision.margin, boundary, sampling.temperature, sampling.repetition_penalty
        )
        return Decision(decision.token, margin)

    def _without_hopeless(
        self, tokens: NDArray[np.int64], logits: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Drop tokens that no noise could lift to the score of the likeliest one.

        Exact: noise is bounded, so neither the winner nor a narrow margin changes, nor any below
        ``_MARGIN_KEPT``.
        """
        assert self._noise is not None
        top = int(logits.argmax())
        score = logits[top] + self._noise(self.position, tokens[top : top + 1])[0]
        reach = NOISE_CEILING + self._widest_narrow(abs(float(logits[top])))
        hopeful = np.flatnonzero(logits > score - reach)
        return tokens[hopeful], logits[hopeful]

    def _widest_narrow(self, likeliest: float) -> float:
        """Gap of scores up to which a decision may be narrow; ``likeliest``: a scaled logit."""
        sampling = self._processors.sampling
        stretch = error_stretch(sampling.temperature, sampling.repetition_penalty)
        size = max(likeliest * sampling.temperature, 1.0) if self._narrow.relative else 1.0
        return max(_MARGIN_KEPT, 2 * self._narrow.bound * size * stretch)

    def _verdict(self, path: list[int], decisions: list[Decision]) -> Verdict:
        margins = tuple(decision.margin for decision in decisions)
        return Verdict(
            path=tuple(path),
            tokens=tuple(decision.token for decision in decisions),
            rows=(0, *(node + 1 for node in path)),
            margins=margins,
            narrow=sum(margin < self._narrow.bound for margin in margins),
        )


def _children(tree: DraftTree) -> dict[tuple[int, int], int]:
    """Node by its parent and its token."""
    return {edge: node for node, edge in enumerate(zip(tree.parents, tree.tokens, strict=True))}


def _likeliest(logits: NDArray[np.floating]) -> Decision:
    index = int(logits.argmax())
    _refuse_nan(float(logits[index]))
    return Decision(index, top_gap(logits, index))


def _refuse_nan(score: float) -> None:
    """An argmax over NaN points at it, so one look at the winner is enough."""
    if not math.isfinite(score):
        raise VerifierError(f"the likeliest token has score {score}; expected a finite number")
