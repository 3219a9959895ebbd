"""One request on its way through the tiers, until one of them has answered well enough."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import NamedTuple

from gateway.cascade.answer import Answer, Gathering
from gateway.cascade.asking import Question, plain_question, question
from gateway.cascade.decide import accepts, best_index
from gateway.cascade.evidence import Outlook, joint_score
from gateway.cascade.failures import Late, nobody_answered, outcome_of
from gateway.cascade.policy import Policy
from gateway.cascade.receipt import Attempt, Ledger, engine_part
from gateway.errors import ApiError, GatewayError, TierBroken
from gateway.generation import (
    AnswerEvent,
    Delta,
    Finished,
    Job,
    Started,
    Tier,
    TierDone,
    TierEvent,
    Usage,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Everything that is settled about a request before the first tier is asked.

    ``order`` holds indices into ``tiers``, the start first. ``deadline`` is on the walk's clock.
    """

    job: Job
    tiers: tuple[Tier, ...]
    order: tuple[int, ...]
    policy: Policy
    outlook: Outlook | None = None
    judge_rivals: int | None = None
    max_escalations: int | None = None
    deadline: float | None = None
    near: Callable[[], Awaitable[Sequence[str]]] | None = None  # answers to similar requests


class Kept(NamedTuple):
    """An answer and the evidence it was given on."""

    answer: Answer
    score: float | None
    probabilities: Mapping[str, float] | None


class _Rejected(NamedTuple):
    answer: Answer
    attempt: Attempt


class Walk:
    """Asks tiers in order. ``events`` may be iterated once."""

    def __init__(
        self,
        asked: Asked,
        ledger: Ledger,
        *,
        keep: Callable[[Kept], None],
        escalated: Callable[[str], None],
        used: Callable[[str, Usage], None],
        refused: Callable[[ApiError], None] = lambda error: None,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        self.ledger = ledger
        self.second_best = False  # whether the answer is given for want of a better one
        self._asked = asked
        self._keep = keep
        self._escalated = escalated
        self._used = used
        self._refused = refused
        self._clock = clock
        self._began = clock() if began is None else began
        self._rejected: list[_Rejected] = []
        self._errors: list[GatewayError] = []

    async def events(self) -> AsyncGenerator[AnswerEvent]:
        """See ``Answerer.answer``."""
        for place, index in enumerate(self._asked.order):
            if self._enough(index):
                break
            tier, attempt = self._next(index)
            if not tier.usable():
                continue
            if self._shown_live(place):
                async with aclosing(self._live(tier, attempt)) as events:
                    async for event in events:
                        yield event
                if attempt.outcome == "answered":
                    return
            else:
                answer = await self._buffered(tier, attempt)
                if answer is not None and self._passes(index, answer, attempt):
                    for event in self._given(answer, attempt):
                        yield event
                    return
        for event in self._best():
            yield event

    @property
    def refused_by_all(self) -> bool:
        """Whether every tier there is refused the request itself."""
        refusals = [one for one in self._errors if isinstance(one, ApiError)]
        return len(refusals) == len(self._errors) == len(self._asked.tiers)

    def _next(self, index: int) -> tuple[Tier, Attempt]:
        tier = self._asked.tiers[index]
        attempt = Attempt(tier=tier.name)
        self.ledger.attempts.append(attempt)
        return tier, attempt

    def _enough(self, index: int) -> bool:
        """Whether to settle for what there is instead of asking tier ``index``.

        Cheaper tiers than the start are for when nothing else answered at all.
        """
        if not self._rejected:
            return self._left_s() == 0.0
        most = self._asked.max_escalations
        spent = most is not None and len(self._rejected) > most
        return spent or index < self._asked.order[0] or self._left_s() == 0.0

    def _shown_live(self, place: int) -> bool:
        """Text is shown as it comes when it will be the answer whatever it is."""
        tiers, order = self._asked.tiers, self._asked.order
        if order[place] == len(tiers) - 1:
            return True
        return not self._rejected and not any(tiers[later].usable() for later in order[place + 1 :])

    async def _live(self, tier: Tier, attempt: Attempt) -> AsyncGenerator[AnswerEvent]:
        """Pass on a tier's answer. Before its first event failures are only written down.

        Raises:
            TierBroken: after its first event.
        """
        asked = question(
            self._asked.job,
            tier,
            rejected=self._rejected_answers(),
            expected_tokens=self._expected_tokens(),
            near=await self._near(),
        )
        gathering = Gathering(self._choices())
        started = False
        try:
            async with aclosing(self._ask(tier, asked, attempt)) as events:
                async for event in events:
                    if not started:
                        started = True
                        yield self._started(tier.name)
                    if isinstance(event, Delta):
                        shown = asked.shown(event)
                        gathering.add(shown)
                        yield shown
                    else:
                        attempt.outcome = "answered"
                        yield self._finished(tier.name, event, gathering, attempt)
        except GatewayError as error:
            self._note(attempt, error)
            if started:
                raise TierBroken(str(error)) from error

    async def _buffered(self, tier: Tier, attempt: Attempt) -> Answer | None:
        """A tier's whole answer with everything the judge wants, None when it failed."""
        asked = question(
            self._asked.job,
            tier,
            judge_rivals=self._asked.judge_rivals,
            rejected=self._rejected_answers(),
            expected_tokens=self._expected_tokens(),
            near=await self._near(),
        )
        gathering, done = Gathering(self._choices()), None
        try:
            async with aclosing(self._ask(tier, asked, attempt)) as events:
                async for event in events:
                    if isinstance(event, TierDone):
                        done = event
                    else:
                        gathering.add(event)
                    if gathering.overfull:
                        raise TierBroken(f"tier {tier.name!r} sends more than an answer can hold")
        except GatewayError as error:
            self._note(attempt, error)
            return None
        return None if done is None else _whole(tier.name, gathering, done)

    async def _ask(
        self, tier: Tier, asked: Question, attempt: Attempt
    ) -> AsyncGenerator[TierEvent]:
        """Stream from a tier within the deadline. What it refuses of our additions is left out."""
        attempt.handed_up = asked.handed_up
        try:
            async with aclosing(self._stream(tier, asked, attempt)) as events:
                async for event in events:
                    yield event
            return
        except ApiError:
            if not asked.added:
                raise
        attempt.handed_up = ()
        plain = plain_question(self._asked.job)
        async with aclosing(self._stream(tier, plain, attempt)) as events:
            async for event in events:
                yield event

    async def _stream(
        self, tier: Tier, asked: Question, attempt: Attempt
    ) -> AsyncGenerator[TierEvent]:
        job = replace(self._asked.job, deadline_s=self._left_s())
        began = self._clock()
        events = tier.stream(job, asked.body)
        try:
            while (event := await self._in_time(tier, events)) is not None:
                attempt.ms = (self._clock() - began) * 1000
                if isinstance(event, TierDone):
                    attempt.usage = event.usage
                    self._used(tier.name, event.usage)
                    attempt.engine = engine_part(event.receipt)
                yield event
        finally:
            attempt.ms = (self._clock() - began) * 1000
            if isinstance(events, AsyncGenerator):
                await events.aclose()

    async def _in_time(self, tier: Tier, events: AsyncIterator[TierEvent]) -> TierEvent | None:
        """The next event. A tier that fails in a way it should not is one that broke."""
        limit = asyncio.timeout(self._left_s())
        try:
            async with limit:
                return await anext(events, None)
        except GatewayError:
            raise
        except Exception as error:
            if limit.expired():
                raise Late("the deadline of the request passed") from None
            _log.exception("tier %s failed unexpectedly", tier.name)
            raise TierBroken(f"tier {tier.name!r} failed unexpectedly") from error

    def _left_s(self) -> float | None:
        """Seconds until the deadline, None without one."""
        deadline = self._asked.deadline
        return None if deadline is None else max(0.0, deadline - self._clock())

    def _passes(self, index: int, answer: Answer, attempt: Attempt) -> bool:
        began = self._clock()
        attempt.score = self._score(answer)
        attempt.judge_ms = (self._clock() - began) * 1000
        if accepts(self._asked.policy, index, attempt.score):
            attempt.outcome = "accepted"
            return True
        attempt.outcome = "rejected"
        self._rejected.append(_Rejected(answer, attempt))
        self._escalated(answer.tier)
        return False

    def _score(self, answer: Answer) -> float | None:
        """A judge that fails has no opinion: the answer stands."""
        outlook = self._asked.outlook
        if outlook is None:
            return None
        tokens = answer.usage.completion_tokens if len(answer.choices) == 1 else None
        try:
            score = joint_score([outlook.score(answer.tier, one, tokens) for one in answer.choices])
        except Exception:
            _log.exception("the judge failed on request %s", self._asked.job.request_id)
            return None
        return None if score is None or math.isnan(score) else score

    def _best(self) -> Iterator[AnswerEvent]:
        """Of several rejected answers the best one, for there is no better to be had."""
        if not self._rejected:
            model, late = self._asked.job.model, self._left_s() == 0.0
            error = nobody_answered(model, self._errors, late=late)
            if self.refused_by_all:
                self._refused(error)
            raise error
        self.second_best = True
        best = self._rejected[best_index([one.attempt.score for one in self._rejected])]
        best.attempt.outcome = "returned"
        yield from self._given(best.answer, best.attempt)

    def _given(self, answer: Answer, attempt: Attempt) -> Iterator[AnswerEvent]:
        """A whole answer, shown at once."""
        shown = plain_question(self._asked.job).shown
        yield self._started(answer.tier)
        gathering = Gathering(self._choices())
        for delta in map(shown, answer.deltas()):
            gathering.add(delta)
            yield delta
        done = TierDone(usage=answer.usage, fingerprint=answer.fingerprint)
        yield self._finished(answer.tier, done, gathering, attempt)

    def _started(self, tier: str) -> Started:
        return Started(
            tier=tier,
            policy_version=self._asked.policy.version,
            cache_status=self.ledger.cache,
        )

    def _finished(
        self, tier: str, done: TierDone, gathering: Gathering, attempt: Attempt
    ) -> Finished:
        """The last event; the answer is handed to the cache on the way."""
        usage = _of_the_client(done.usage, self._asked.job)
        answer = Answer(
            tier=tier, choices=gathering.choices(), usage=usage, fingerprint=done.fingerprint
        )
        if not gathering.overfull:
            self._keep(Kept(answer, attempt.score, self.ledger.probabilities))
        total_ms = (self._clock() - self._began) * 1000
        receipt = self.ledger.document(tier, total_ms)
        return Finished(usage=usage, fingerprint=done.fingerprint, receipt=receipt)

    async def _near(self) -> Sequence[str]:
        """Nobody's answer fails for want of a neighbour."""
        if self._asked.near is None:
            return ()
        try:
            return await self._asked.near()
        except Exception:
            _log.exception("no near hits for request %s", self._asked.job.request_id)
            return ()

    def _note(self, attempt: Attempt, error: GatewayError) -> None:
        self._errors.append(error)
        attempt.outcome = outcome_of(error)

    def _expected_tokens(self) -> float | None:
        outlook = self._asked.outlook
        expected = None if outlook is None else outlook.expected_tokens
        return expected if expected is not None and 0 <= expected < math.inf else None

    def _rejected_answers(self) -> list[Answer]:
        return [one.answer for one in self._rejected]

    def _choices(self) -> int:
        return int(self._asked.job.body.get("n") or 1)


def _whole(tier: str, gathering: Gathering, done: TierDone) -> Answer:
    return Answer(
        tier=tier, choices=gathering.choices(), usage=done.usage, fingerprint=done.fingerprint
    )


def _of_the_client(usage: Usage, job: Job) -> Usage:
    """Prediction counts belong to the client's own prediction only."""
    if job.body.get("prediction"):
        return usage
    return replace(usage, accepted_prediction_tokens=0, rejected_prediction_tokens=0)
