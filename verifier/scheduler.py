"""Who runs: first come, first served, over as many pages as there are."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from verifier.cache import KeyValueCache
from verifier.choice import Choice, Counts, Key
from verifier.pages import OutOfPages


class Chunk(NamedTuple):
    """The committed-to-be tokens one choice brings to a step; ``last``: none is left pending."""

    choice: Choice
    tokens: list[int]
    last: bool


class Scheduler:
    """The waiting and the running choices of one model. Not thread-safe."""

    def __init__(
        self,
        cache: KeyValueCache,
        counts: Counts,
        *,
        max_running: int,
        step_tokens: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.cache = cache
        self.waiting: deque[Choice] = deque()
        self.running: list[Choice] = []  # in order of arrival
        self._counts = counts
        self._max_running = max_running
        self._step_tokens = step_tokens
        self._clock = clock

    def chunks(self) -> list[Chunk]:
        """Admit, then share the step's tokens out: one to each decoding choice, prompts after."""
        self._admit()
        planned: list[Chunk] = []
        budget = self._step_tokens
        for choice in sorted(self.running, key=lambda choice: not choice.decoding):
            if choice.lease is None:  # preempted by an earlier one, this very moment
                continue
            size = min(choice.pending, max(budget, 1 if choice.decoding else 0))
            if size > 0 and self._reserve(choice, size):
                budget -= size
                planned.append(self._chunk(choice, size))
        return [chunk for chunk in planned if chunk.choice.lease is not None]

    def try_reserve(self, choice: Choice, rows: int) -> bool:
        """Hold pages for ``rows`` more tokens if that costs nobody else anything."""
        assert choice.lease is not None
        try:
            self.cache.reserve(choice.lease, rows)
        except OutOfPages:
            return False
        return True

    def finish(self, choice: Choice) -> None:
        """Free everything a choice holds, wherever it is."""
        if choice.lease is not None:
            self.cache.close(choice.lease)
            choice.lease = None
            self.running.remove(choice)
        elif choice in self.waiting:
            self.waiting.remove(choice)
        if choice.drafts is not None:
            choice.drafts.close()

    def find(self, request_id: str) -> list[Choice]:
        """Every choice of a request."""
        everyone = [*self.running, *self.waiting]
        return [choice for choice in everyone if choice.request.request_id == request_id]

    def holds(self, key: Key) -> bool:
        """Whether such a choice is here."""
        return any(choice.key == key for choice in [*self.running, *self.waiting])

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._max_running:
            if not self._fits(self.waiting[0]):
                return
            choice = self.waiting.popleft()
            choice.lease = self.cache.open(choice.tokens, choice.root)
            self.running.append(choice)
            self.running.sort(key=lambda choice: choice.arrival)
            self._note_admission(choice, choice.lease.committed)

    def _fits(self, choice: Choice) -> bool:
        """Whether its tokens so far fit beside the running ones; alone, anything fits."""
        if not self.running:
            return True
        # A shared page that nobody holds counts as available, and sharing it takes it: no credit.
        needed = -(-(len(choice.tokens) + 1) // self.cache.page_size)
        return needed <= self.cache.pool.available

    def _note_admission(self, choice: Choice, hit: int) -> None:
        self._counts.prefix_hit_tokens += hit
        if choice.tally.admitted is None:
            choice.tally.admitted = self._clock()
            choice.tally.cached_prompt_tokens = hit

    def _reserve(self, choice: Choice, rows: int) -> bool:
        """Hold pages, taking them from the latest arrivals if need be."""
        while choice.lease is not None:
            if self.try_reserve(choice, rows):
                return True
            self._preempt(self.running[-1])
        return False

    def _preempt(self, choice: Choice) -> None:
        assert choice.lease is not None
        self.cache.close(choice.lease)
        choice.lease = None
        self.running.remove(choice)
        self.waiting.appendleft(choice)
        self._counts.preemptions += 1

    @staticmethod
    def _chunk(choice: Choice, size: int) -> Chunk:
        assert choice.lease is not None
        start = choice.lease.committed
        tokens = choice.tokens[start : start + size]
        return Chunk(choice, tokens, start + size == len(choice.tokens))
