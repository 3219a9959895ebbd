"""Draft from what the same owner was answered lately: bounded, and never another's text."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from drafting.merge import merge
from drafting.reference_lookup import ReferenceLookup
from drafting.source import DraftRequest, DraftSession
from drafting.suffix_lookup import copied_chain
from drafting.tree import EMPTY, DraftTree

_OWNERS: Final = 256
_ANSWERS: Final = 32  # of one owner
_TOKENS: Final = 1024  # of one answer
_LEAST: Final = 8  # tokens below which an answer is not worth keeping
_SEEN_BACK: Final = 16  # tokens compared to tell how long a match is


class _Shelf:
    """The latest answers of one owner, found by any two tokens that follow each other."""

    def __init__(self) -> None:
        self._answers: deque[tuple[int, ...]] = deque()
        self._places: dict[tuple[int, int], tuple[tuple[int, ...], int]] = {}

    def add(self, answer: tuple[int, ...]) -> None:
        """Keep ``answer``; beyond the limit the oldest goes."""
        self._answers.append(answer)
        if len(self._answers) > _ANSWERS:
            self._answers.popleft()
            self._places = {}
            for kept in self._answers:
                self._note(kept)
        else:
            self._note(answer)

    def find(self, context: Sequence[int]) -> tuple[tuple[int, ...], int] | None:
        """The latest answer that holds the last two tokens, and where it goes on."""
        return self._places.get((context[-2], context[-1]))

    def _note(self, answer: tuple[int, ...]) -> None:
        for place, pair in enumerate(pairwise(answer), start=2):
            self._places[pair] = (answer, place)


class RecentAnswers:
    """Source "recent_answer": answers its owner got before, and those a request hands in."""

    name = "recent_answer"

    def __init__(self) -> None:
        self._handed_in = ReferenceLookup("recent_answer")
        self._shelves: OrderedDict[str, _Shelf] = OrderedDict()

    def open(self, request: DraftRequest) -> DraftSession:
        """Begin a request; it sees its owner's answers as they are at each step."""
        return _RecentSession(self, request, self._handed_in.open(request))

    def keep(self, owner: str, output: Sequence[int]) -> None:
        """Keep what a request of ``owner`` was answered."""
        if len(output) < _LEAST:
            return
        shelf = self._shelves.setdefault(owner, _Shelf())
        self._shelves.move_to_end(owner)
        shelf.add(tuple(output[:_TOKENS]))
        while len(self._shelves) > _OWNERS:
            self._shelves.popitem(last=False)

    def shelf(self, owner: str) -> _Shelf | None:
        """What is kept for ``owner``."""
        return self._shelves.get(owner)


class _RecentSession:
    """One request among its owner's answers, and in those handed in with it."""

    def __init__(self, source: RecentAnswers, request: DraftRequest, own: DraftSession) -> None:
        self._source = source
        self._owner = request.owner
        self._own = own
        self._place: tuple[tuple[int, ...], int] | None = None  # an answer, its next token's index
        self._read = 0  # tokens of the context
        self._closed = False

    def propose(self, context: Sequence[int], *, max_nodes: int) -> DraftTree:
        """How an answer goes on that the output has come to follow."""
        if self._closed or max_nodes <= 0 or len(context) < 2:
            return EMPTY
        trees = [self._own.propose(context, max_nodes=max_nodes)]
        shelf = self._source.shelf(self._owner)
        if shelf is not None:
            self._follow(shelf, context)
            if self._place is not None:
                answer, place = self._place
                copied = answer[place : place + max_nodes]
                trees.append(
                    copied_chain(copied, _matched(answer, place, context), "recent_answer")
                )
        return merge(trees, max_nodes=max_nodes)

    def close(self) -> None:
        """Forget where it was."""
        self._closed = True
        self._place = None
        self._own.close()

    def _follow(self, shelf: _Shelf, context: Sequence[int]) -> None:
        """Stay where the output goes on as the answer does, else look for another place."""
        fresh = context[self._read :] if self._read else context[-1:]
        self._read = len(context)
        if self._place is not None:
            answer, place = self._place
            if answer[place : place + len(fresh)] == tuple(fresh):
                self._place = answer, place + len(fresh)
                return
        self._place = shelf.find(context)


def _matched(answer: Sequence[int], place: int, context: Sequence[int]) -> int:
    """How many tokens before ``place`` are those at the end of ``context``."""
    most = min(place, len(context), _SEEN_BACK)
    return next((n for n in range(most) if answer[place - 1 - n] != context[-1 - n]), most)
