"""Draft from a reference text: follow it from its start, find the place again after a detour."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from drafting.merge import merge
from drafting.source import DraftRequest, DraftSession, ReferenceKind
from drafting.suffix_automaton import NO_STATE, START, SuffixAutomaton
from drafting.suffix_lookup import copied_chain
from drafting.tree import EMPTY, DraftTree

_FOLLOWED_FROM_START: Final = frozenset({"prediction", "rejected_answer", "near_hit"})
_START_TRUST: Final = 4  # matched tokens that standing at the start of a reference is worth
_TRUST_LOST: Final = 4  # a divergence divides trust by this
_SKIPS: Final = 3  # tokens of a reference that an output may leave out at once
_MISSES: Final = 4  # divergences in a row after which a place is given up
_ANCHORS: Final = 4  # places followed at once
_OCCURRENCES: Final = 64  # occurrences looked at when choosing the nearest
_INDEXED: Final = 32_768  # tokens whose automata outlive their requests, about a kilobyte each
_REPLAY: Final = 16  # tokens re-read when the automaton is first needed


_Detour = Literal["replaced", "inserted", "skipped"]


class _Anchor(NamedTuple):
    """A guess of where in the reference the output is."""

    place: int  # index of the token expected next
    trust: int  # tokens matched so far, less what divergences cost
    misses: int = 0  # divergences in a row
    detour: _Detour | None = None  # what the latest divergence is taken for, until it is confirmed
    share: float = 1.0  # P(this guess rather than the others made at that divergence)


class _Index:
    """The automaton of one reference, and where each of its states ends; shared by requests."""

    def __init__(self, tokens: tuple[int, ...]) -> None:
        self.text = SuffixAutomaton()
        self._longer: list[list[int]] = []
        self._end: dict[int, int] = {}
        for place, token in enumerate(tokens):
            self.text.append(token)
            self._end[self.text.last] = place
        self._longer = [[] for _ in self.text.link]
        for state, link in enumerate(self.text.link):
            if link != NO_STATE:
                self._longer[link].append(state)

    def nearest_end(self, state: int, wanted: int) -> int:
        """End of the occurrence of ``state`` nearest to index ``wanted``, among the first many."""
        best = self.text.last_end[state]
        queue = [state]
        for _ in range(_OCCURRENCES):
            if not queue:
                break
            state = queue.pop()
            end = self._end.get(state, best)
            best = min(best, end, key=lambda place: abs(place - wanted))
            queue.extend(self._longer[state])
        return best


_indexes: Final[OrderedDict[tuple[int, ...], _Index]] = OrderedDict()


def _index(tokens: tuple[int, ...]) -> _Index:
    """Made once for requests that share a reference, as long as all fit into the bound."""
    index = _indexes.pop(tokens, None) or _Index(tokens)
    _indexes[tokens] = index
    kept = sum(map(len, _indexes))
    while kept > _INDEXED:
        oldest, _ = _indexes.popitem(last=False)
        kept -= len(oldest)
    return index


class ReferenceTracker:
    """Follows one reference along an output, at several places at once while unsure."""

    def __init__(self, tokens: tuple[int, ...], *, from_start: bool) -> None:
        self.tokens = tokens
        self.taken: set[int] = set()  # indices of ``tokens`` the output took over, in place
        self._anchors = [_Anchor(0, _START_TRUST)] if from_start and tokens else []
        self._place = 0  # where the output last was, for sure or not
        self._recent: list[int] = []  # output not yet read by the automaton
        self._index: _Index | None = None
        self._match: tuple[int, int] | None = None  # state and length, once it is needed
        # How often a divergence turned out to be one or the other, and before any has.
        self._detours: dict[_Detour, float] = {"replaced": 2.0, "inserted": 0.5, "skipped": 0.5}

    def advance(self, token: int) -> None:
        """Move on by one committed token of the output."""
        if self._anchors:
            self._place = self._anchors[0].place
            if self._expects(self._anchors[0], token):
                self.taken.add(self._place)
        held = [self._held(anchor) for anchor in self._anchors if self._expects(anchor, token)]
        self._recent.append(token)
        if not held or self._match is not None:
            trust = max((anchor.trust for anchor in held), default=0)
            held = held or self._after_divergence(token)
            held.extend(self._matched(trust))
        elif len(self._recent) > 2 * _REPLAY:
            del self._recent[:-_REPLAY]
        self._anchors = _strongest(held)

    def chains(self, source: str, count: int) -> Iterator[DraftTree]:
        """What comes next at every place followed, most trusted first, up to ``count`` tokens."""
        for anchor in self._anchors:
            copied = self.tokens[anchor.place : anchor.place + count]
            if copied:
                yield copied_chain(copied, anchor.trust, source, anchor.share)

    def _expects(self, anchor: _Anchor, token: int) -> bool:
        return anchor.place < len(self.tokens) and self.tokens[anchor.place] == token

    def _held(self, anchor: _Anchor) -> _Anchor:
        """No longer astray."""
        if anchor.detour is not None:
            self._detours[anchor.detour] += 1.0
        return _Anchor(anchor.place + 1, anchor.trust + 1)

    def _after_divergence(self, token: int) -> list[_Anchor]:
        """What ``token`` may be: put in between, instead of the one expected, or one further on."""
        guesses: list[_Anchor] = []
        for place, trust, misses, _, share in self._anchors:
            if misses < _MISSES:
                left = max(trust // _TRUST_LOST, 1)
                places = {kind: self._place_after(place, kind, token) for kind in self._detours}
                able = {kind: after for kind, after in places.items() if after is not None}
                whole = sum(self._detours[kind] for kind in able)
                guesses += [
                    _Anchor(after, left, misses + 1, kind, share * self._detours[kind] / whole)
                    for kind, after in able.items()
                ]
        return guesses

    def _place_after(self, place: int, detour: _Detour, token: int) -> int | None:
        if detour == "replaced":
            return place + 1
        if detour == "inserted":
            return place
        ahead = self.tokens[place + 1 : place + 1 + _SKIPS]
        return place + 2 + ahead.index(token) if token in ahead else None

    def _matched(self, trust: int) -> list[_Anchor]:
        """Where the longest suffix of the output in the reference ends, if beyond ``trust``."""
        index = self._index = self._index or _index(self.tokens)
        state, length = self._match or (START, 0)
        for token in self._recent[-_REPLAY:]:
            state, length = index.text.step(state, length, token)
        self._recent.clear()
        self._match = state, length
        if length <= trust:
            return []
        return [_Anchor(index.nearest_end(state, self._place) + 1, length)]


def _strongest(anchors: list[_Anchor]) -> list[_Anchor]:
    """The most trusted few, one for each place; earlier ones win a tie."""
    if len(anchors) <= 1:
        return anchors
    best: dict[int, _Anchor] = {}
    for anchor in anchors:
        known = best.setdefault(anchor.place, anchor)
        if _weight(anchor) > _weight(known):
            best[anchor.place] = anchor
    return sorted(best.values(), key=_weight, reverse=True)[:_ANCHORS]


def _weight(anchor: _Anchor) -> float:
    return anchor.trust * anchor.share


class ReferenceLookup:
    """Source named after a reference kind: drafts from the request's references of that kind."""

    def __init__(self, kind: ReferenceKind) -> None:
        self.name: str = kind
        self._from_start = kind in _FOLLOWED_FROM_START

    def open(self, request: DraftRequest) -> DraftSession:
        """Begin a request; without a reference of this kind there will be no guess."""
        trackers = [
            ReferenceTracker(reference.tokens, from_start=self._from_start)
            for reference in request.references
            if reference.kind == self.name
        ]
        return _ReferenceSession(self.name, trackers, read=len(request.prompt))


class _ReferenceSession:
    """All references of one kind of one request."""

    def __init__(self, source: str, trackers: list[ReferenceTracker], *, read: int) -> None:
        self._source = source
        self._trackers = trackers
        self._read = read

    def propose(self, context: Sequence[int], *, max_nodes: int) -> DraftTree:
        """What each reference says next, wherever the output stands in it."""
        if not self._trackers or max_nodes <= 0:
            return EMPTY
        for place in range(self._read, len(context)):
            for tracker in self._trackers:
                tracker.advance(context[place])
        self._read = max(self._read, len(context))
        chains = [
            chain for tracker in self._trackers for chain in tracker.chains(self._source, max_nodes)
        ]
        return merge(chains, max_nodes=max_nodes)

    def close(self) -> None:
        """Forget the references."""
        self._trackers = []
