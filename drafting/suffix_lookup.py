"""Draft by text lookup: what followed the same words earlier, in prompt and output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from drafting.merge import chain, merge
from drafting.source import DraftRequest, DraftSession
from drafting.suffix_automaton import START, SuffixAutomaton
from drafting.tree import EMPTY, DraftTree

_SUFFIXES: Final = 2  # matched suffixes whose continuations are proposed, longest first
_LEAST_PATH_PROB: Final = 0.02  # of a copied token that is still proposed
_BRANCHES: Final = 3  # continuations of one of them
_READ: Final = 512  # tokens of a text taken in at one step: a long one must not hold others up


def match_confidence(length: float) -> float:
    """P(the next token repeats too | ``length`` tokens did), before any calibration."""
    return length / (length + 2.0)


def copied_chain(
    tokens: Sequence[int], matched: float, source: str, share: float = 1.0
) -> DraftTree:
    """A chain of copied ``tokens`` behind a match; each accepted token makes the match longer.

    It ends where reaching the next token is too unlikely. ``share``: of the match's continuations
    that go this way.
    """
    confidence: list[float] = []
    path_prob = 1.0
    for done in range(len(tokens)):
        claim = match_confidence(matched + done) * (share if done == 0 else 1.0)
        path_prob *= claim
        if done > 0 and path_prob < _LEAST_PATH_PROB:
            break
        confidence.append(claim)
    return chain(tokens[: len(confidence)], confidence, source)


class PromptLookup:
    """Source "prompt_lookup": repeats of the prompt and of the output so far."""

    name = "prompt_lookup"

    def open(self, request: DraftRequest) -> DraftSession:
        """Begin a request; the text is read at its first proposal."""
        return _PromptSession(self.name)


class _PromptSession:
    """The automaton of one request's own text."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._text: SuffixAutomaton | None = SuffixAutomaton()
        self._pairs: set[tuple[int, int]] = set()
        self._paired = 0  # tokens whose pairs, but for the last, are among them

    def propose(self, context: Sequence[int], *, max_nodes: int) -> DraftTree:
        """Continuations of the longest suffixes of ``context`` that occurred before.

        None before a long text is taken in, which needs several steps.
        """
        if self._text is None or max_nodes <= 0 or not self._repeats(context):
            return EMPTY
        read = len(self._text.tokens)
        for token in context[read : read + _READ]:
            self._text.append(token)
        if len(self._text.tokens) < len(context):
            return EMPTY
        return merge(list(self._chains(self._text, max_nodes)), max_nodes=max_nodes)

    def close(self) -> None:
        """Forget the text."""
        self._text = None
        self._pairs = set()

    def _repeats(self, context: Sequence[int]) -> bool:
        """Whether the last two tokens occurred before: told far faster than by the automaton."""
        if len(context) < 2:
            return False
        self._pairs.update(pairwise(context[max(self._paired - 2, 0) : -1]))
        self._paired = len(context)
        return (context[-2], context[-1]) in self._pairs

    def _chains(self, text: SuffixAutomaton, max_nodes: int) -> Iterator[DraftTree]:
        state = text.link[text.last]
        for _ in range(_SUFFIXES):
            if state <= START:
                return
            matched = text.length[state]
            for end, share in _continuations(text, state):
                copied = _copy(text.tokens, end, max_nodes)
                yield copied_chain(copied, matched, self._source, share)
            state = text.link[state]


def _continuations(text: SuffixAutomaton, state: int) -> list[tuple[int, float]]:
    """Ends of occurrences of ``state`` to copy on from, latest first, and how usual each one is.

    The latest occurrence, then those with other next tokens, by frequency and lateness.
    """
    latest = text.last_end[state]
    follow = text.follow[state]
    total = sum(text.count[next_state] for next_state in follow.values())
    ends = {token: (text.count[after], text.last_end[after] - 1) for token, after in follow.items()}
    first = text.tokens[latest + 1]
    others = sorted((seen for token, seen in ends.items() if token != first), reverse=True)
    ranked = [(ends[first][0], latest), *others[: _BRANCHES - 1]]
    return [(end, count / total) for count, end in ranked]


def _copy(tokens: Sequence[int], end: int, count: int) -> list[int]:
    """``count`` tokens after index ``end``; past the end of the text, what was copied repeats."""
    copied = list(tokens[end + 1 : end + 1 + count])
    period = len(copied)
    while len(copied) < count:
        copied.append(copied[-period])
    return copied
