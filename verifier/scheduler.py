"""Who runs: the first to come or the shortest first, over as many pages as there are."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Final, Literal, NamedTuple

from torch import Tensor

from verifier.block_courier import BlockCourier
from verifier.block_fetch import Fetch
from verifier.cache import KeyValueCache
from verifier.choice import Choice, Counts, Key
from verifier.pages import OutOfPages

Order = Literal["first_come", "shortest"]
AGEING: Final = 50.0
"""Predicted tokens that a second of waiting makes up for, in the order "shortest"."""
_LARGEST_SCORED = 256  # prompt tokens of one chunk whose log-probs are wanted: logits take memory
_LOOK_AHEAD = 4  # waiting choices whose stored pages are fetched before their turn
_WORTH_WAITING = 2  # pages: a shorter common prefix is computed sooner than waited for
_NOTHING: Mapping[bytes, Tensor] = {}


class Chunk(NamedTuple):
    """The committed-to-be tokens one choice brings to a step; ``last``: none is left pending."""

    choice: Choice
    tokens: list[int]
    last: bool


class Scheduler:
    """The waiting and the running choices of one model. Not thread-safe.

    In the order "shortest" a choice is served before another that came later unless that one is
    predicted to be shorter by ``ageing`` tokens for each second between them: nobody waits longer
    than his own prediction divided by ``ageing`` behind newcomers.
    """

    def __init__(
        self,
        cache: KeyValueCache,
        counts: Counts,
        *,
        max_running: int,
        step_tokens: int | None,
        order: Order = "first_come",
        ageing: float = AGEING,
        courier: BlockCourier | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.cache = cache
        self.courier = courier
        self.waiting: list[Choice] = []  # in the order they are to be served
        self.running: list[Choice] = []  # in order of arrival
        self._counts = counts
        self._max_running = max_running
        self._step_tokens = step_tokens  # None: whole prompts at once
        self._order = order
        self._ageing = ageing
        self._clock = clock
        self._prompt_tokens = 0  # of the latest step
        self._seconds = 0.0  # that steps had taken before it
        self._distrusted = False  # the courier's store

    def enqueue(self, choice: Choice) -> None:
        """Let a choice wait for its turn."""
        insort(self.waiting, choice, key=self._rank)

    def chunks(self) -> list[Chunk]:
        """Admit, then share the step's tokens out: one to each decoding choice, prompts after."""
        if self.courier is not None:
            self._attend(self.courier)
        self._set_back_switched()
        self._admit()
        planned: list[Chunk] = []
        budget = self._prompt_budget()
        for choice in sorted(self.running, key=self._turn):
            if choice.lease is None:  # preempted by an earlier one, this very moment
                continue
            size = 1 if choice.decoding else self._chunk_size(choice, budget)
            if size > 0 and self._reserve(choice, size):
                budget -= 0 if choice.decoding else size
                planned.append(self._chunk(choice, size))
        planned = [chunk for chunk in planned if chunk.choice.lease is not None]
        prompts = (len(chunk.tokens) for chunk in planned if not chunk.choice.decoding)
        self._prompt_tokens = sum(prompts)
        return planned

    def next_arrival_s(self) -> float:
        """Seconds until no waiting choice waits for stored pages any more, at the soonest."""
        waits = (choice.fetch.left_s for choice in self.waiting if choice.fetch is not None)
        return max(0.0, min(waits, default=0.0))

    def finish(self, choice: Choice) -> None:
        """Free everything a choice holds, wherever it is."""
        if choice.lease is not None:
            self.cache.close(choice.lease)
            choice.lease = None
            self.running.remove(choice)
        elif choice in self.waiting:
            self.waiting.remove(choice)
        if choice.fetch is not None:
            choice.fetch.abandon()
        if choice.drafts is not None:
            choice.drafts.close()

    def find(self, request_id: str) -> list[Choice]:
        """Every choice of a request."""
        everyone = [*self.running, *self.waiting]
        return [choice for choice in everyone if choice.request.request_id == request_id]

    def holds(self, key: Key) -> bool:
        """Whether such a choice is here."""
        return any(choice.key == key for choice in [*self.running, *self.waiting])

    def _rank(self, choice: Choice) -> float:
        """Served ascending. All age alike, so that a place in the queue never changes."""
        if self._order == "first_come":
            return float(choice.arrival)
        request = choice.request
        predicted = request.predicted_tokens
        if predicted is None:
            predicted = request.stops.max_tokens
        return predicted + self._ageing * choice.tally.submitted

    def _turn(self, choice: Choice) -> tuple[bool, float]:
        return not choice.decoding, self._rank(choice)

    def _prompt_budget(self) -> float:
        """Prompt tokens of this step; decoding choices come first but never take everything."""
        if self._step_tokens is None:
            return float("inf")
        return max(self._step_tokens - sum(choice.decoding for choice in self.running), 1)

    @staticmethod
    def _chunk_size(choice: Choice, budget: float) -> int:
        size = int(min(choice.pending, budget))
        scores = choice.request.prompt_logprobs is not None
        return min(size, _LARGEST_SCORED) if scores else size

    def _attend(self, courier: BlockCourier) -> None:
        """Say what the prompts of the latest step took; once the store has lied, begin anew."""
        spent = self._counts.step_seconds
        courier.rates.computed(self._prompt_tokens, spent - self._seconds)
        self._seconds = spent
        if courier.off and not self._distrusted:
            self._distrusted = True
            for choice in list(self.running):
                self._set_back(choice)
            self.cache.pool.forget()

    def _admit(self) -> None:
        """Who waits for pages, stored or being computed, lets others pass until they are there."""
        for choice in list(self._ready_to_run()):
            if len(self.running) >= self._max_running or not self._fits(choice):
                return
            if self._prefix_is_coming(choice):
                continue
            self.waiting.remove(choice)
            self._open(choice)
            self.running.append(choice)
            self.running.sort(key=lambda choice: choice.arrival)

    def _ready_to_run(self) -> Iterator[Choice]:
        if self.courier is None or len(self.running) >= self._max_running:
            return iter(self.waiting)
        soon = self._max_running - len(self.running) + _LOOK_AHEAD
        ahead = sum(one.pending for one in self.running if not one.decoding)
        for choice in self.waiting[:soon]:
            if choice.fetch is None and choice.tally.admitted is None:
                choice.fetch = self._fetch(self.courier, choice, ahead)
            if choice.fetch is None or choice.fetch.done:
                ahead += choice.pending
        return (one for one in self.waiting if one.fetch is None or one.fetch.ready())

    def _fetch(self, courier: BlockCourier, choice: Choice, ahead: int) -> Fetch | None:
        """One for all that begin alike; they share its pages once the first of them runs."""
        names = self._missing(choice)
        for other in self.waiting if names else ():
            if other.fetch is not None and other.fetch.names[:1] == tuple(names[:1]):
                return other.fetch
        return courier.fetch(names, choice.page_root, ahead) if names else None

    def _prefix_is_coming(self, choice: Choice) -> bool:
        """Whether a running choice is just computing pages that this one would compute again."""
        leaders = [one for one in self.running if not one.decoding]
        missing = self._missing(choice) if leaders else []
        return any(_agreed(missing, self._missing(leader)) >= _WORTH_WAITING for leader in leaders)

    def _missing(self, choice: Choice) -> list[bytes]:
        """Names of its pages that nobody has computed yet."""
        if choice.request.prompt_logprobs is not None:
            return []
        if choice.page_names is None:
            choice.page_names = self.cache.names(choice.tokens, choice.page_root)
        return choice.page_names[self.cache.pool.known(choice.page_names) :]

    def _open(self, choice: Choice) -> None:
        """Begin its context. Whose prompt is scored has every row of it computed."""
        restored = _NOTHING if choice.fetch is None else choice.fetch.take()
        scores = choice.request.prompt_logprobs is not None
        known = choice.tokens if not scores else ()
        choice.lease = self.cache.open(known, choice.page_root, restored)
        self._counts.prefix_hit_tokens += choice.lease.committed
        self._counts.block_hit_tokens += choice.lease.restored * self.cache.page_size
        if choice.tally.admitted is None:
            choice.tally.admitted = self._clock()
            choice.tally.cached_prompt_tokens = choice.lease.committed

    def _fits(self, choice: Choice) -> bool:
        """Whether its tokens so far fit beside the running ones; alone, anything fits."""
        if not self.running:
            return True
        # A shared page that nobody holds counts as available, and sharing it takes it: no credit.
        needed = -(-(len(choice.tokens) + 1) // self.cache.page_size)
        return needed <= self.cache.pool.available

    def _reserve(self, choice: Choice, rows: int) -> bool:
        """Hold pages, taking them from the latest arrivals if need be."""
        while choice.lease is not None:
            try:
                self.cache.reserve(choice.lease, rows)
            except OutOfPages:
                self._preempt(self.running[-1])
            else:
                return True
        return False

    def _preempt(self, choice: Choice) -> None:
        self._set_back(choice)
        self._counts.preemptions += 1

    def _set_back(self, choice: Choice) -> None:
        assert choice.lease is not None
        self.cache.close(choice.lease)
        choice.lease = None
        choice.page_names = None
        self.running.remove(choice)
        self.enqueue(choice)

    def _set_back_switched(self) -> None:
        """Keys of a text that grew beyond the rotary switch are computed anew, once."""
        for choice in list(self.running):
            if choice.lease is not None and choice.lease.root != choice.page_root:
                choice.page_names = None
                self._set_back(choice)

    @staticmethod
    def _chunk(choice: Choice, size: int) -> Chunk:
        assert choice.lease is not None
        start = choice.lease.committed
        tokens = choice.tokens[start : start + size]
        return Chunk(choice, tokens, start + size == len(choice.tokens))


def _agreed(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """How many names two prefixes begin with in common."""
    same = (a == b for a, b in zip(one, other, strict=False))
    return sum(takewhile(bool, same))
