"""The draft sessions of one request: what it wishes, what it expects and what it earned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from drafting.calibration import HitRate, Outlook
from drafting.errors import InvalidControl
from drafting.failures import Failures
from drafting.reference_lookup import ReferenceTracker
from drafting.source import (
    DraftRequest,
    DraftSession,
    DraftSource,
    Watcher,
    keeps,
    watches,
)
from drafting.tree import EMPTY, DraftTree


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftControl:
    """What a request wishes; the engine copies it from the request's ``Speculation``.

    Raises:
        InvalidControl: ``max_nodes`` is negative.
    """

    mode: Literal["off", "auto", "fixed"] = "auto"
    sources: frozenset[str] | None = None  # None: every configured source
    max_nodes: int | None = None  # None: what the planner allows one request

    def __post_init__(self) -> None:
        if self.max_nodes is not None and self.max_nodes < 0:
            raise InvalidControl(f"got max_nodes {self.max_nodes}; expected 0 or more")


class Credit(NamedTuple):
    """Nodes a source proposed (whether or not it was alone) and how many were accepted."""

    proposed: int = 0
    accepted: int = 0


class RequestDrafts:
    """The draft sessions of one request, with what they earned. Close it when the request ends."""

    def __init__(
        self,
        request: DraftRequest,
        control: DraftControl,
        sources: Sequence[DraftSource],
        hits: Mapping[str, HitRate],
        failures: Failures | None = None,
    ) -> None:
        """``hits``: of each draft model in this request, by source name; ``failures``: where those
        of sources are counted.
        """
        self.control = control
        self.outlook = Outlook()
        self.hits = hits
        self.proposed = EMPTY  # all that was proposed for the running step, verified or not
        self._request = request
        self._failures = failures or Failures()
        self._sources = sources
        self._sessions: dict[str, DraftSession] = {}
        self._proposed: dict[str, int] = {}
        self._accepted: dict[str, int] = {}
        self._predictions = [
            ReferenceTracker(reference.tokens, from_start=True)
            for reference in request.references
            if reference.kind == "prediction"
        ]
        self._keepers = [(source.name, source) for source in sources if keeps(source)]
        self._watchers: dict[str, Watcher] = {}
        self._output: list[int] = []  # as far as somebody keeps it
        self._rest = 0
        self._fruitless = 0
        self._closed = False

    @property
    def credits(self) -> Mapping[str, Credit]:
        """By source name, only sources that proposed something."""
        return {
            name: Credit(count, self._accepted.get(name, 0))
            for name, count in self._proposed.items()
        }

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end the output."""
        return self._request.stop_ids

    @property
    def accepted_prediction_tokens(self) -> int:
        """Tokens of the client's prediction that the output took over, each in its place.

        Counted on the text, not on drafts, so that the load of the machine changes no usage.
        """
        return sum(len(tracker.taken) for tracker in self._predictions)

    @property
    def rejected_prediction_tokens(self) -> int:
        """Tokens of the client's prediction that it did not."""
        offered = sum(len(tracker.tokens) for tracker in self._predictions)
        return offered - self.accepted_prediction_tokens

    @property
    def closed(self) -> bool:
        """Whether its sources are released."""
        return self._closed

    @property
    def has_references(self) -> bool:
        """Whether there is something to go by before the first token of output."""
        return bool(self._request.references)

    def emitted(self, context: Sequence[int]) -> int:
        """Tokens of output in ``context``."""
        return len(context) - len(self._request.prompt)

    def session(self, source: DraftSource) -> DraftSession | None:
        """This request's session with ``source``, opened at first use; None if it wants none."""
        if self._failures.final(source.name):
            return None
        known = self._sessions.get(source.name)
        if known is not None:
            return known
        if self._closed or source not in self._sources:
            return None
        opened = self._sessions[source.name] = source.open(self._request)
        if watches(opened):
            self._watchers[source.name] = opened
        return opened

    def leave(self, source: DraftSource) -> None:
        """Go on without ``source``, which failed."""
        self._sources = [one for one in self._sources if one is not source]
        self._watchers.pop(source.name, None)
        session = self._sessions.pop(source.name, None)
        if session is not None:
            with suppress(Exception):  # it may fail once more
                session.close()

    def rested(self) -> bool:
        """Whether to look texts up at this step."""
        if self._rest > 0:
            self._rest -= 1
        return self._rest == 0

    def note_lookup(self, *, fruitful: bool, longest_rest: int) -> None:
        """Learn whether a draft came of this step; lookups that do not pay are made ever rarer."""
        if fruitful:
            self._rest = self._fruitless = 0
        elif self._rest == 0 and longest_rest > 0:
            self._fruitless += 1
            self._rest = min(2 ** min(self._fruitless, 8), longest_rest)

    def settle(self, tree: DraftTree, path: Sequence[int], tokens: Sequence[int]) -> None:
        """Book the outcome of a step."""
        for names in tree.sources:
            _count(self._proposed, names)
        for node in path:
            _count(self._accepted, tree.sources[node])
        for tracker in self._predictions:
            for token in tokens:
                tracker.advance(token)
        if self._keepers:
            self._output += tokens

    def watch(self, tree: DraftTree, guesses: Sequence[int]) -> None:
        """Show those who learn from it what the target guessed at every node."""
        for name, watcher in self._watchers.items():
            self._failures.guard(name, partial(watcher.watch, tree, guesses))

    def close(self) -> None:
        """Release every source's state. Calling it twice is harmless."""
        if not self._closed:
            for name, keeper in self._keepers:
                kept = partial(keeper.keep, self._request.owner, self._output)
                self._failures.guard(name, kept)
        self._closed = True
        for name, session in self._sessions.items():
            self._failures.guard(name, session.close)
        self._sessions.clear()
        self._watchers.clear()


def _count(counts: dict[str, int], names: frozenset[str]) -> None:
    for name in names:
        counts[name] = counts.get(name, 0) + 1
