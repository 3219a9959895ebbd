"""The cascade at work: route, ask, judge, escalate, and never fail while any tier can answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import NamedTuple, Protocol

from gateway.cache.entry import Entry
from gateway.cache.flights import Flights, NotShared, Shared
from gateway.cache.responses import Lookup, ResponseCache
from gateway.cascade.asking import able
from gateway.cascade.decide import attempt_order, start_index, still_serves
from gateway.cascade.evidence import Estimator, Outlook
from gateway.cascade.failures import nobody_answered
from gateway.cascade.policy import Policy
from gateway.cascade.receipt import Ledger
from gateway.cascade.walk import Asked, Kept, Walk
from gateway.errors import ApiError, ConfigError, TierBroken
from gateway.generation import AnswerEvent, Finished, Identity, Job, Started, Tier, Usage
from gateway.near.neighbours import Neighbours, Search

AUTO = "auto"
_LAST_WORD_S = 0.25  # for a generation to say itself that its deadline passed
_log = logging.getLogger(__name__)


class PolicySource(Protocol):
    """Where the policy in force is found."""

    @property
    def current(self) -> Policy:
        """An immutable snapshot."""
        ...


class _Settled(NamedTuple):
    """What is settled about a request once the cache was asked."""

    job: Job
    tiers: tuple[Tier, ...]
    policy: Policy
    found: Lookup | None
    began: float


class Cascade:
    """The ``Answerer`` in front of all tiers, cheapest first.

    ``start_without_router`` names the tier where requests begin that no estimator can read; None
    is the last one. ``max_escalations`` bounds how often a rejected answer is followed by another,
    ``deadline_s`` holds for requests that bring none. ``escalated`` hears of each rejection,
    ``used`` of each whole answer a tier gave, rejected ones too, and what it cost.

    Raises:
        ConfigError: no tier, or a name that is no tier's.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        policy: PolicySource,
        *,
        estimator: Estimator | None = None,
        cache: ResponseCache | None = None,
        flights: Flights | None = None,
        neighbours: Neighbours | None = None,
        start_without_router: str | None = None,
        max_escalations: int | None = None,
        deadline_s: float | None = None,
        escalated: Callable[[str], None] | None = None,
        used: Callable[[str, Usage], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tiers = tuple(tiers)
        self._names = [tier.name for tier in self.tiers]
        if policy.current.ladder != tuple(self._names):
            raise ConfigError(f"tiers: got {self._names}; expected {list(policy.current.ladder)}")
        if start_without_router is not None and start_without_router not in self._names:
            raise ConfigError(f"start: got {start_without_router!r}; expected one of {self._names}")
        self._policy = policy
        self._estimator = estimator
        self._cache = cache
        self._flights = flights
        self._neighbours = neighbours
        self._fallback = start_without_router
        self._max_escalations = max_escalations
        self._deadline_s = deadline_s
        self._escalated = escalated or _ignore
        self._used = used or _ignore
        self._clock = clock

    async def answer(self, job: Job) -> AsyncGenerator[AnswerEvent]:
        """See ``Answerer``."""
        began = self._clock()
        tiers = able(job, self._tiers_for(job))
        policy = self._policy.current.among([tier.name for tier in tiers])
        found = await self._look(job, tiers, policy)
        if found is not None and found.entry is not None:
            for event in _replay(found, found.entry, policy, self._clock, began):
                yield event
            return
        settled = _Settled(job, tiers, policy, found, began)
        shared = self._shared(settled)
        if shared is not None:
            given = False
            try:
                async with aclosing(self._flying(shared, job, began)) as events:
                    async for event in events:
                        given = True
                        yield event
                return
            except NotShared as error:
                if given:
                    raise TierBroken(str(error)) from error
        async with aclosing(self._walk(settled).events()) as events:
            async for event in events:
                yield event

    def forget(self, tenant: str | None) -> None:
        """Give no more drafts made of what one tenant was answered, or anybody."""
        if self._neighbours is not None:
            self._neighbours.index.forget(tenant)

    def _shared(self, settled: _Settled) -> Shared | None:
        """How the answer may be shared with equal requests at this time, None if it may not."""
        job, found, cache = settled.job, settled.found, self._cache
        if self._flights is None or cache is None or found is None or found.key is None:
            return None
        if not found.repeatable or job.cache_control:
            return None
        policy = settled.policy
        return Shared(
            key=f"{found.key}|{policy.etag}|{self._version}|{self._max_escalations}",
            generate=lambda original: self._walk(settled, original=original),
            kept=partial(cache.written, found.key) if cache.rules.responses else None,
            collapsed=partial(cache.collapsed, job),
        )

    async def _flying(self, shared: Shared, job: Job, began: float) -> AsyncGenerator[AnswerEvent]:
        """The shared answer, for as long as this one client waits."""
        assert self._flights is not None
        limit_s = self._limit_s(job)
        given = False
        async with aclosing(self._flights.answer(shared)) as events:
            if limit_s is None:
                async for one in events:
                    yield one
                return
            until = began + limit_s + _LAST_WORD_S
            while True:
                try:
                    async with asyncio.timeout(max(0.0, until - self._clock())):
                        event = await anext(events, None)
                except TimeoutError:
                    if given:
                        raise TierBroken("the deadline of the request passed") from None
                    raise nobody_answered(job.model, (), late=True) from None
                if event is None:
                    return
                given = True
                yield event

    def _limit_s(self, job: Job) -> float | None:
        return self._deadline_s if job.deadline_s is None else job.deadline_s

    def _tiers_for(self, job: Job) -> tuple[Tier, ...]:
        """The only tiers that this job may be answered by.

        Raises:
            ApiError: there is none.
        """
        if job.model == AUTO:
            return self._tiers_of(job.identity)
        if job.model not in self._names:
            raise ApiError(
                404,
                f"The model {job.model[:64]!r} does not exist.",
                param="model",
                code="model_not_found",
            )
        return (self.tiers[self._names.index(job.model)],)

    def _tiers_of(self, identity: Identity) -> tuple[Tier, ...]:
        """Every tier for a key that allows `auto` alone, else those that it names beside it."""
        named = None if identity.allowed_models is None else identity.allowed_models - {AUTO}
        if named is None or (not named and identity.allowed_models):
            return self.tiers
        found = tuple(tier for tier in self.tiers if tier.name in named)
        if not found:
            raise ApiError(
                403,
                "Your API key allows no model that is served here.",
                type="permission_error",
                param="model",
                code="model_not_allowed",
            )
        return found

    async def _look(self, job: Job, tiers: tuple[Tier, ...], policy: Policy) -> Lookup | None:
        if self._cache is None:
            return None
        return await self._cache.look(job, tiers, partial(self._still_serves, policy))

    def _still_serves(self, policy: Policy, entry: Entry) -> bool:
        comparable = entry.estimator == self._version
        return still_serves(
            policy,
            entry.answer.tier,
            probabilities=entry.probabilities,
            score=entry.score if comparable else None,
        )

    @property
    def _version(self) -> str | None:
        return None if self._estimator is None else self._estimator.version

    def _walk(self, settled: _Settled, *, original: bool = True) -> Walk:
        """A way through the tiers; one that is not the original is for those who still read."""
        job, tiers, policy, found, began = settled
        search = None if self._neighbours is None else self._neighbours.search(job)
        router_began = self._clock()
        outlook = self._read(job) if job.model == AUTO else None
        router_ms = self._ms_since(router_began)
        probabilities = outlook.probabilities if outlook else None
        fallback = policy.index(self._fallback) if self._fallback in policy.ladder else None
        start = start_index(policy, probabilities, fallback)
        limit_s = self._limit_s(job) if original else self._deadline_s
        began = began if original else self._clock()
        return Walk(
            Asked(
                job=job,
                tiers=tiers,
                order=attempt_order(policy, start),
                policy=policy,
                outlook=outlook,
                judge_rivals=self._estimator.top_logprobs if self._estimator else None,
                max_escalations=self._max_escalations,
                deadline=None if limit_s is None else began + limit_s,
                near=None if search is None else search.found,
            ),
            Ledger(
                policy_version=policy.version,
                cache=found.status if found else None,
                cache_key=found.digest if found else None,
                start=tiers[start].name,
                probabilities=probabilities,
                router_ms=router_ms,
            ),
            keep=partial(self._keep, found, job, tiers, policy, search),
            escalated=self._escalated,
            used=self._used,
            refused=partial(self._remember, found),
            clock=self._clock,
            began=began,
        )

    def _read(self, job: Job) -> Outlook | None:
        """A router that fails costs a better start, never the request."""
        if self._estimator is None:
            return None
        try:
            return self._estimator.read(job.endpoint, job.body)
        except Exception:
            _log.exception("the router failed on request %s", job.request_id)
            return None

    def _keep(
        self,
        found: Lookup | None,
        job: Job,
        tiers: tuple[Tier, ...],
        policy: Policy,
        search: Search | None,
        kept: Kept,
    ) -> None:
        """Keep an answer that this very policy would give again; any may help requests like it."""
        if search is not None:
            search.learn(kept.answer)
        if self._cache is None or found is None:
            return
        entry = Entry(
            answer=kept.answer,
            created=self._cache.now(),
            model=job.model,
            policy_version=policy.version,
            score=kept.score,
            probabilities=kept.probabilities,
            estimator=self._version,
        )
        serves = partial(self._still_serves, policy)
        if serves(entry):
            self._cache.keep(found, job, tiers, entry, serves)

    def _remember(self, found: Lookup | None, refusal: ApiError) -> None:
        if self._cache is not None and found is not None and found.key is not None:
            self._cache.refusals.keep(found.key, refusal)

    def _ms_since(self, moment: float) -> float:
        return (self._clock() - moment) * 1000


def _replay(
    found: Lookup, entry: Entry, policy: Policy, clock: Callable[[], float], began: float
) -> Iterator[AnswerEvent]:
    """A kept answer as it was given, with the usage of then."""
    yield Started(
        tier=entry.answer.tier,
        policy_version=policy.version,
        cache_status=found.status,
        age_s=found.age_s,
    )
    yield from entry.answer.deltas()
    ledger = Ledger(
        policy_version=policy.version,
        cache=found.status,
        cache_key=found.digest,
        probabilities=entry.probabilities,
    )
    receipt = ledger.document(entry.answer.tier, (clock() - began) * 1000)
    receipt |= {
        "cached": True,
        "score": entry.score,
        "age_s": found.age_s,
        "made_under": entry.policy_version,
    }
    yield Finished(usage=entry.answer.usage, fingerprint=entry.answer.fingerprint, receipt=receipt)


def _ignore(*_: object) -> None:
    pass
