"""A suffix automaton that grows one token at a time: every substring of a text, in linear space."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

START: Final = 0
"""State of the empty string."""
NO_STATE: Final = -1
_CHAIN: Final = 16  # suffixes of the newest token whose last occurrence is brought up to date


class SuffixAutomaton:
    """All substrings of a growing text; appending is O(1) amortised.

    A state stands for substrings that end at the same places. ``length`` is that of the longest;
    ``link`` leads to the state of its longest suffix that also ends elsewhere.
    """

    __slots__ = ("count", "follow", "last", "last_end", "length", "link", "tokens")

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self.tokens: list[int] = []
        self.follow: list[dict[int, int]] = [{}]
        self.link: list[int] = [NO_STATE]
        self.length: list[int] = [0]
        self.last_end: list[int] = [-1]  # index of the last token of a late earlier occurrence
        self.count: list[int] = [0]  # earlier occurrences, roughly
        self.last: int = START
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """Add ``token`` to the end of the text."""
        self._note_end()
        new = self._state({}, self.length[self.last] + 1, len(self.tokens))
        self.tokens.append(token)
        state = self.last
        self.last = new
        while state != NO_STATE and token not in self.follow[state]:
            self.follow[state][token] = new
            state = self.link[state]
        self.link[new] = START if state == NO_STATE else self._split(state, token)

    def step(self, state: int, length: int, token: int) -> tuple[int, int]:
        """Longest suffix of (match of ``length`` at ``state``) + ``token`` that the text holds."""
        while token not in self.follow[state]:
            state = self.link[state]
            if state == NO_STATE:
                return START, 0
            length = self.length[state]
        return self.follow[state][token], length + 1

    def _state(self, follow: dict[int, int], length: int, end: int) -> int:
        self.follow.append(follow)
        self.link.append(START)
        self.length.append(length)
        self.last_end.append(end)
        self.count.append(1)
        return len(self.follow) - 1

    def _split(self, state: int, token: int) -> int:
        """The state of (longest of ``state``) + ``token``, cloned from a longer one if needed."""
        target = self.follow[state][token]
        if self.length[target] == self.length[state] + 1:
            return target
        clone = self._state(
            dict(self.follow[target]), self.length[state] + 1, self.last_end[target]
        )
        self.count[clone] = self.count[target]
        self.link[clone] = self.link[target]
        self.link[target] = clone
        while state != NO_STATE and self.follow[state].get(token) == target:
            self.follow[state][token] = clone
            state = self.link[state]
        return clone

    def _note_end(self) -> None:
        """Record the text's end as an occurrence of its suffixes, once it is no longer the end.

        Only the longest few: bounded work, and the short ones are the least telling.
        """
        end = len(self.tokens) - 1
        state = self.link[self.last]
        for _ in range(_CHAIN):
            if state <= START:
                return
            self.last_end[state] = end
            self.count[state] += 1
            state = self.link[state]
