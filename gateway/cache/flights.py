"""Single flight: equal requests at one time are generated once, here and across replicas."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from gateway.cache.flight import Flight, NotShared
from gateway.cache.relayed import Lost, Publisher, Rhythm, follow
from gateway.cache.splice import Differs, Splice
from gateway.errors import GatewayError, StoreUnavailable, TierBroken
from gateway.generation import AnswerEvent, Finished, Started
from gateway.store.relay import Claim, Relay
from gateway.store.sealed import Seal

_REMEMBERED = 4096  # claims
_TRIES = 8  # of getting one answer to its end, for those who have begun to read it
_log = logging.getLogger(__name__)


class Generation(Protocol):
    """One way through the tiers."""

    @property
    def second_best(self) -> bool:
        """Whether what it gives is only for want of something better."""
        ...

    @property
    def refused_by_all(self) -> bool:
        """Whether it failed for what the request itself says."""
        ...

    def events(self) -> AsyncIterator[AnswerEvent]:
        """See ``Answerer.answer``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A request that may share its answer. ``key`` names everything that could change it.

    ``generate`` begins a generation, the first time for this very request, later for whoever still
    reads. ``kept`` returns once the answer is where the next asker finds it; None: it is not kept.
    """

    key: str
    generate: Callable[[bool], Generation]
    kept: Callable[[], Awaitable[None]] | None
    collapsed: Callable[[], str]  # the Cache-Status of those who join


class Flights:
    """Every generation under way in this process, and with a relay in its replicas."""

    def __init__(
        self, *, secret: bytes, relay: Relay | None = None, rhythm: Rhythm | None = None
    ) -> None:
        self._relay = relay
        self._rhythm = rhythm or Rhythm()
        self._seal = Seal(secret)
        self._flying: dict[str, Flight] = {}
        self._led: OrderedDict[str, None] = OrderedDict()  # tokens of claims that were our own

    async def answer(self, asked: Shared) -> AsyncGenerator[AnswerEvent]:
        """The answer to ``asked``, generated here, or as somebody else's is.

        Raises:
            NotShared: nothing was given, and whoever asked should generate for itself.
            GatewayError: see ``Answerer.answer``.
        """
        flight = self._flying.get(asked.key)
        first = flight is None
        if flight is None:
            flight = self._take_off(asked)
        collapsed = None if first else asked.collapsed()
        async with aclosing(flight.read(first=first)) as events:
            async for event in events:
                if collapsed is None and flight.follows:
                    collapsed = asked.collapsed()
                yield event if collapsed is None else _as_follower(event, collapsed)

    async def aclose(self) -> None:
        """Cancel whatever still runs."""
        for flight in list(self._flying.values()):
            await flight.aclose()

    def _take_off(self, asked: Shared) -> Flight:
        def land() -> None:
            if self._flying.get(asked.key) is flight:
                del self._flying[asked.key]

        flight = self._flying[asked.key] = Flight(land, lingers=asked.kept is not None)
        flight.start(self._fly(flight, asked))
        return flight

    async def _fly(self, flight: Flight, asked: Shared) -> None:
        """Bring the answer to its end, whoever generates it and however often that changes."""
        splice, attempt = Splice(), 0
        for tries in range(_TRIES):
            claim = await self._join(asked.key, attempt)
            attempt = attempt + 1 if claim is None else claim.attempt
            splice.restart()
            try:
                if claim is None or claim.leads:
                    await self._lead(flight, asked, splice, claim, original=tries == 0)
                else:
                    await self._follow(flight, splice, claim)
                return
            except (Lost, StoreUnavailable) as error:
                _log.info("a shared generation is taken over: %s", error)
                if isinstance(error, StoreUnavailable):
                    attempt = _TRIES  # on our own from here
            except Differs:
                raise
            except TierBroken:
                alone = flight.readers < 2 and not flight.wanted_elsewhere()
                if alone or tries > 0:
                    raise
        raise TierBroken("the answer was begun too often and never finished")

    async def _join(self, key: str, after: int) -> Claim | None:
        """None: on our own."""
        if self._relay is None:
            return None
        try:
            claim = await self._relay.join(key, after)
            while claim is not None and claim.token in self._led:  # ours, and over: nobody leads it
                claim = await self._relay.join(key, claim.attempt)
        except StoreUnavailable:
            return None
        if claim is not None and claim.leads:
            self._led[claim.token] = None
            while len(self._led) > _REMEMBERED:
                self._led.popitem(last=False)
        return claim

    async def _lead(
        self, flight: Flight, asked: Shared, splice: Splice, claim: Claim | None, *, original: bool
    ) -> None:
        publisher = None
        if claim is not None and self._relay is not None:
            publisher = Publisher(self._relay, claim, self._seal, self._rhythm)
            flight.wanted_elsewhere = lambda: publisher.wanted
        whole = False
        try:
            await self._generate(flight, asked.generate(original), splice, publisher)
            whole = not flight.own
        finally:
            flight.wanted_elsewhere = lambda: False
            if publisher is not None:
                await publisher.end("done" if whole else "over")
        if asked.kept is not None:
            await asked.kept()  # until then whoever asks finds the flight, from then on the answer

    async def _generate(
        self, flight: Flight, generation: Generation, splice: Splice, publisher: Publisher | None
    ) -> None:
        try:
            async with aclosing(generation.events()) as events:  # type: ignore[type-var]
                async for event in events:
                    if generation.second_best and not splice.begun:
                        flight.keep_to_the_first()
                    if publisher is not None and not flight.own:
                        publisher.put(event)
                    for news in splice.take(event):
                        await flight.put(news)
        except GatewayError:
            if not splice.begun and not generation.refused_by_all:
                flight.keep_to_the_first()
            raise

    async def _follow(self, flight: Flight, splice: Splice, claim: Claim) -> None:
        assert self._relay is not None
        flight.follows = flight.follows or not splice.begun
        async with aclosing(follow(self._relay, claim, self._seal, self._rhythm)) as events:
            async for event in events:
                for news in splice.take(event):
                    await flight.put(news)


def _as_follower(event: AnswerEvent, status: str) -> AnswerEvent:
    """``event`` as one sees it who did not cause it."""
    if isinstance(event, Started):
        return replace(event, cache_status=status)
    if isinstance(event, Finished):
        return replace(event, receipt={**event.receipt, "cache": status, "collapsed": True})
    return event


__all__ = ["Flights", "Generation", "NotShared", "Shared"]
