"""Steers a draft model so that every forward of it is expected to pay for itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from drafting.cost import Load, StepCost
from drafting.model_draft import (
    MAX_LEVELS,
    Level,
    ModelAsk,
    likely,
    open_shares,
    session_of,
    with_ancestors,
)
from drafting.planner import WORTH, Batch, Planner

_TRIAL_LEVELS: Final = 2
_LONG: Final = 256  # tokens of output beyond which its length says nothing more
_SPAN: Final = 8  # rows over which the price of one more is taken


class _Bid(NamedTuple):
    """What a request promises, level by level, at the price of the moment."""

    ask: ModelAsk
    frontier: list[int]
    net: list[float]  # tokens gained less the price, after 0, 1, ... levels


class Thrift:
    """Decides level by level, for one step. The price of a second is what the step earns with it.

    Tokens per second are highest where the last thing done earned as much as the whole; so a level
    is drafted as long as it promises more tokens for its time than the step makes on average.
    """

    def __init__(self, planner: Planner, draft_cost: StepCost, batch: Batch) -> None:
        """``batch``: the step's load; ``draft_cost``: forwards of the draft model."""
        self._planner = planner
        self._batch = batch
        self._draft_cost = draft_cost
        self._begun = False
        self._left = MAX_LEVELS
        self.trial: ModelAsk | None = None  # drafted for against all expectation
        context = batch.mean_context
        self._draft_row = draft_cost.added(batch.requests, _SPAN, context) / _SPAN
        self._verify_row = planner.cost.added(batch.rows, _SPAN, context) / _SPAN
        self._tokens = float(batch.requests)
        self._seconds = planner.base_seconds(batch)

    def start(self, reaches: Sequence[Sequence[float]]) -> None:
        """Take in what was proposed before: P(node reached) of every node of every tree."""
        ranked = sorted((reach for own in reaches for reach in own), reverse=True)
        count = self._planner.best_count(ranked, self._batch)
        self._tokens += sum(ranked[:count])
        self._seconds += self._planner.cost.added(self._batch.rows, count, self._batch.mean_context)

    def __call__(self, asks: Sequence[ModelAsk]) -> list[ModelAsk]:
        """Set the ``frontier`` of those that go on one level and return them."""
        for ask in asks:
            ask.frontier = likely(ask) if ask.fixed else ()
        free = any(ask.frontier for ask in asks)  # some forward is run in any case
        thrifty = [ask for ask in asks if not ask.fixed]
        if self.trial is not None:
            self._go_on_trying()
        elif self._begun:
            self._go_on(thrifty, free)
        else:
            self._begin(thrifty, free)
        self._begun = True
        return [ask for ask in asks if ask.frontier]

    def promises(self, ask: ModelAsk) -> bool:
        """Whether drafts for ``ask`` are expected to pay, what has to be read for them included."""
        bid = self._bid(ask, self._price(self._draft_row + self._verify_row))
        requests = self._batch.requests
        level = self._price(self._level_seconds(requests)) / requests
        return bid is not None and any(
            net > depth * level for depth, net in enumerate(bid.net[1:], start=1)
        )

    def note(self, level: Level, seconds: float) -> None:
        """Learn what a level has cost, and what it added."""
        requests = len(level.asks)
        context = float(sum(len(ask.context) for ask in level.asks))
        load = Load(level.rows, requests, context, level.rows * context / requests)
        self._draft_cost.observe(load, seconds)
        if self.trial is not None:
            self._planner.spend(self._draft_cost.pace.standard(seconds))
        self._seconds += self._draft_cost(*load)
        for ask in level.asks:
            if not ask.fixed:
                self._count(ask)

    def _count(self, ask: ModelAsk) -> None:
        """Add the likeliest of the nodes an ask's latest level proposed to the expected step."""
        growth = ask.growth
        for node in ask.grown:
            if node >= ask.counted and growth.reach[node] > self._price(self._verify_row):
                self._tokens += growth.reach[node]
                self._seconds += self._verify_row
        ask.counted = len(growth)

    def _price(self, seconds: float) -> float:
        """Tokens that must be expected of so many seconds."""
        return WORTH * seconds * self._tokens / self._seconds

    def _go_on(self, asks: Sequence[ModelAsk], free: bool) -> None:
        """Another level for those that deserve it, if together they pay for a forward."""
        price, promised, wanted = self._price(self._draft_row + self._verify_row), 0.0, []
        for ask in asks:
            shares = open_shares(ask)
            worth = [n for n, share in shares.items() if share * ask.hit_rate > price]
            if worth:
                promised += sum(shares[n] * ask.hit_rate - price for n in worth)
                wanted.append((ask, worth))
        if wanted and (free or promised > self._price(self._level_seconds(len(wanted)))):
            for ask, worth in wanted:
                ask.frontier = with_ancestors(ask, worth)

    def _begin(self, asks: Sequence[ModelAsk], free: bool) -> None:
        """The first level, for those of whom a whole draft of the best depth promises enough."""
        price = self._price(self._draft_row + self._verify_row)
        begun = [ask for ask in asks if ask.emitted > 0]
        bids = [bid for ask in begun if (bid := self._bid(ask, price)) is not None]
        if not bids:
            return
        level = 0.0 if free else self._price(self._level_seconds(len(bids)))
        totals = [
            sum(max(bid.net[depth], 0.0) for bid in bids) - depth * level
            for depth in range(len(bids[0].net))
        ]
        best = max(range(len(totals)), key=totals.__getitem__)
        if totals[best] <= 0.0:
            self._try(bids)
            return
        for bid in bids:
            if bid.net[best] > 0.0:
                bid.ask.frontier = bid.frontier

    def _bid(self, ask: ModelAsk, price: float) -> _Bid | None:
        """What drafting for ``ask`` promises.

        How much longer a text goes on is unknown; what has gone on for n tokens goes on for k more
        with n / (n + k). So a model does not read the prompt of an answer that ends at once; what
        it reads serves every draft to come.
        """
        shares = open_shares(ask)
        if not shares:
            return None
        worth = [n for n, share in shares.items() if share * ask.hit_rate > price]
        worth = worth or [max(shares, key=lambda node: shares[node])]
        frontier = with_ancestors(ask, worth)
        unread = len(frontier) - len(worth) + session_of(ask).pending(ask.context) - 1
        reading = self._price(self._reading_seconds(unread))
        value, emitted = sum(shares[node] for node in worth), ask.emitted
        net = [
            value * gain - depth * price - reading / max(emitted / (1.0 + value * gain), 1.0)
            for depth, gain in enumerate(_gains(min(emitted, _LONG), int(100 * ask.hit_rate)))
        ]
        return _Bid(ask, frontier, net)

    def _try(self, bids: Sequence[_Bid]) -> None:
        """Now and then draft all the same, where it is cheapest: what was learned may be past."""
        base = self._planner.base_seconds(self._batch)
        level = self._level_seconds(1) + self._draft_row
        bid = min(bids, key=lambda bid: session_of(bid.ask).pending(bid.ask.context))
        unread = session_of(bid.ask).pending(bid.ask.context) - 1
        # A model that truly costs more than this is of no use, so its trials are for finding out.
        seconds = min(_TRIAL_LEVELS * level + self._reading_seconds(unread), base)
        if self._planner.affords_trial(seconds + self._verify_row):
            self.trial = bid.ask
            self._left = _TRIAL_LEVELS - 1
            bid.ask.frontier = bid.frontier
            self._planner.spend(self._verify_row)

    def _go_on_trying(self) -> None:
        if self.trial is None or self._left <= 0:
            return
        self._left -= 1
        shares = open_shares(self.trial)
        if shares:
            best = max(shares, key=lambda node: shares[node])
            self.trial.frontier = with_ancestors(self.trial, [best])

    def _reading_seconds(self, unread: int) -> float:
        """Of rows that bring the model up to date."""
        return self._draft_cost.added(1, unread, self._batch.mean_context) if unread > 0 else 0.0

    def _level_seconds(self, requests: int) -> float:
        """Of a forward of the draft model, less what its rows cost one by one."""
        context = self._batch.mean_context * requests
        whole = self._draft_cost(requests, requests, context, context)
        return max(whole - requests * self._draft_row, 0.0)


def most_gained(emitted: int, hit_rate: float) -> float:
    """Tokens that drafts may bring at most to pay for reading a text so far."""
    gain = _gains(min(emitted, _LONG), int(100 * hit_rate))[-1]
    return gain * max(emitted / (1.0 + gain), 1.0)


@lru_cache(maxsize=8192)
def _gains(emitted: int, percent: int) -> tuple[float, ...]:
    """Tokens hoped for of 0, 1, ... levels that each hold the right one so often.

    Rounded arguments, so that few ever have to be summed.
    """
    gains, value = [0.0], 1.0
    for depth in range(1, MAX_LEVELS + 1):
        value *= percent / 100
        gains.append(gains[-1] + value * emitted / (emitted + depth))
    return tuple(gains)
