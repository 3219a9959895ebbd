"""Draft from the target's own guesses at places its text never went to (lookahead decoding).

Fu et al., 2024: iterating a sequence of guesses in parallel (Jacobi iteration) leaves a trail of
n-grams the model deems likely; where the text comes by the beginning of one, it may go on so. Every
verified node yields such a guess at no extra cost: what the target would have said behind it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from drafting.merge import chain, merge
from drafting.source import DraftRequest, DraftSession
from drafting.tree import EMPTY, ROOT, DraftTree

_POOL: Final = 4096  # n-grams kept of one request, the latest
_LONGEST: Final = 16  # tokens of one draft
_KNOWN: Final = 0.5  # claimed of a token the target once guessed behind the same two
_GUESSED: Final = 0.1  # claimed of a step of the running iteration
_SEED: Final = 5  # tokens an iteration begins with: any will do, so the latest of the text


class Lookahead:
    """Source "lookahead": n-grams of the target's own guesses, and the running iteration."""

    name = "lookahead"

    def open(self, request: DraftRequest) -> DraftSession:
        """Begin a request, with any guess: the first verified tree makes a better one of it."""
        return _LookaheadSession(self.name)


class _LookaheadSession:
    """The n-grams of one request; satisfies ``drafting.source.Watcher``."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._pool: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._last = ROOT  # the context's last token when a draft was last made
        self._iterate: list[int] = []  # guesses of what follows the next token
        self._closed = False

    def propose(self, context: Sequence[int], *, max_nodes: int) -> DraftTree:
        """What the target once guessed behind the last two tokens, and the latest iterate."""
        if self._closed or max_nodes <= 0 or len(context) < 2:
            return EMPTY
        self._last = context[-1]
        known = self._continued(context[-2], context[-1], min(max_nodes, _LONGEST))
        chains = [chain(known, [_KNOWN] * len(known), self._source)]
        guessed = (self._iterate or list(context[-1 - _SEED : -1]))[:max_nodes]
        chains.append(chain(guessed, [_GUESSED] * len(guessed), self._source))
        return merge(chains, max_nodes=max_nodes)

    def watch(self, tree: DraftTree, guesses: Sequence[int]) -> None:
        """Gather (parent, node, guess) of every node, and iterate along the tree's first chain."""
        for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
            before = self._last if parent == ROOT else tree.tokens[parent]
            self._pool[before, token] = guesses[1 + node]
            self._pool.move_to_end((before, token))
        while len(self._pool) > _POOL:
            self._pool.popitem(last=False)
        self._iterate = self._next_iterate(tree, guesses)

    def close(self) -> None:
        """Forget the guesses."""
        self._closed = True
        self._pool.clear()
        self._iterate = []

    def _continued(self, before: int, token: int, count: int) -> list[int]:
        found: list[int] = []
        while len(found) < count:
            following = self._pool.get((before, token))
            if following is None:
                break
            found.append(following)
            before, token = token, following
        return found

    def _next_iterate(self, tree: DraftTree, guesses: Sequence[int]) -> list[int]:
        """Guesses behind what the target said instead: those of the nodes beside its token."""
        said, node = guesses[0], ROOT
        place = {(p, t): n for n, (p, t) in enumerate(zip(tree.parents, tree.tokens, strict=True))}
        while (following := place.get((node, said))) is not None:
            node, said = following, guesses[1 + following]
        rejected = [n for n, parent in enumerate(tree.parents) if parent == node]
        return self._along(tree, guesses, rejected[0]) if rejected else []

    @staticmethod
    def _along(tree: DraftTree, guesses: Sequence[int], node: int) -> list[int]:
        """What the target guessed behind ``node`` and behind each first child below it."""
        found = [guesses[1 + node]]
        for child in range(node + 1, len(tree)):
            if tree.parents[child] == node:
                node = child
                found.append(guesses[1 + node])
        return found
