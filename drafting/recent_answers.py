"""Draft from what the same owner was answered lately: bounded, and never another's text."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from drafting.merge import merge
from drafting.reference_lookup import ReferenceLookup
from drafting.source import DraftRequest, DraftSession
from drafting.suffix_lookup import copied_chain
from drafting.tree import EMPTY, DraftTree

_ALL_BYTES: Final = 32 * 2**20  # of everybody's answers
_OWNER_BYTES: Final = 4 * 2**20
_TOKEN_BYTES: Final = 128  # of a kept token: four in its answer, the rest in the index
_ANSWER_BYTES: Final = 1024  # of an answer apart from its tokens, and of what is around a shelf
_ANSWERS: Final = 32  # of one owner
_TOKENS: Final = 1024  # of one answer
_LEAST: Final = 8  # tokens below which an answer is not worth keeping
_SEEN_BACK: Final = 16  # tokens compared to tell how long a match is
_PLACE_BITS: Final = 10  # hold an index into an answer


class _Shelf:
    """The latest answers of one owner, found by any two tokens that follow each other."""

    def __init__(self) -> None:
        self.bytes = 0  # counted, not below what is used
        self._answers: OrderedDict[int, array[int]] = OrderedDict()  # by serial number
        self._places: dict[int, int] = {}  # two tokens -> serial and index of the one after them
        self._serial = 0

    def add(self, answer: array[int]) -> None:
        """Keep ``answer``; beyond the limits the oldest go, each with its own places only."""
        self._serial += 1
        self._answers[self._serial] = answer
        self.bytes += _bytes(answer)
        for place in range(2, len(answer)):
            pair = _pair(answer[place - 2], answer[place - 1])
            self._places[pair] = self._serial << _PLACE_BITS | place
        while len(self._answers) > _ANSWERS or self.bytes > _OWNER_BYTES:
            self._drop_oldest()

    def find(self, context: Sequence[int]) -> tuple[array[int], int] | None:
        """The latest answer that holds the last two tokens, and where it goes on."""
        found = self._places.get(_pair(context[-2], context[-1]))
        if found is None:
            return None
        return self._answers[found >> _PLACE_BITS], found & (1 << _PLACE_BITS) - 1

    def _drop_oldest(self) -> None:
        serial, answer = self._answers.popitem(last=False)
        self.bytes -= _bytes(answer)
        for place in range(2, len(answer)):
            pair = _pair(answer[place - 2], answer[place - 1])
            if self._places.get(pair, 0) >> _PLACE_BITS == serial:
                del self._places[pair]


def _pair(first: int, second: int) -> int:
    return first << 32 | second


def _bytes(answer: Sequence[int]) -> int:
    return _ANSWER_BYTES + _TOKEN_BYTES * len(answer)


class RecentAnswers:
    """Source "recent_answer": answers its owner got before, and those a request hands in."""

    name = "recent_answer"

    def __init__(self) -> None:
        self._handed_in = ReferenceLookup("recent_answer")
        self._shelves: OrderedDict[str, _Shelf] = OrderedDict()
        self._bytes = 0  # of all shelves

    def open(self, request: DraftRequest) -> DraftSession:
        """Begin a request; it sees its owner's answers as they are at each step."""
        return _RecentSession(self, request, self._handed_in.open(request))

    def keep(self, owner: str, output: Sequence[int]) -> None:
        """Keep what a request of ``owner`` was answered."""
        if len(output) < _LEAST:
            return
        shelf = self._shelves.setdefault(owner, _Shelf())
        self._shelves.move_to_end(owner)
        before = shelf.bytes
        shelf.add(array("i", output[:_TOKENS]))
        self._bytes += shelf.bytes - before
        while self._bytes > _ALL_BYTES:
            _, oldest = self._shelves.popitem(last=False)
            self._bytes -= oldest.bytes

    def shelf(self, owner: str) -> _Shelf | None:
        """What is kept for ``owner``."""
        return self._shelves.get(owner)


class _RecentSession:
    """One request among its owner's answers, and in those handed in with it."""

    def __init__(self, source: RecentAnswers, request: DraftRequest, own: DraftSession) -> None:
        self._source = source
        self._owner = request.owner
        self._own = own
        self._place: tuple[array[int], int] | None = None  # an answer, its next token's index
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
            if answer[place : place + len(fresh)] == array("i", fresh):
                self._place = answer, place + len(fresh)
                return
        self._place = shelf.find(context)


def _matched(answer: Sequence[int], place: int, context: Sequence[int]) -> int:
    """How many tokens before ``place`` are those at the end of ``context``."""
    most = min(place, len(context), _SEEN_BACK)
    return next((n for n in range(most) if answer[place - 1 - n] != context[-1 - n]), most)
