"""One answer, or one for each prompt, written whole or as a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from aiohttp import web

from gateway.errors import ApiError, TierBroken
from gateway.faces.front import AUTO, FRONT, Front
from gateway.faces.merging import Events, answers
from gateway.generation import (
    AnswerEvent,
    Delta,
    Endpoint,
    Finished,
    Job,
    Json,
    Started,
    Usage,
)
from gateway.metrics import Metrics
from gateway.wire.fields import CommonRequest
from gateway.wire.middleware import ARRIVED
from gateway.wire.render import Choice, Chunks, dump, new_head, sum_usage, whole_body
from gateway.wire.stream import send_events

ANSWERED_BY = web.RequestKey("answered_by", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How the client wants its answer written."""

    endpoint: Endpoint
    jobs: Sequence[Job]
    choices: int  # of each job
    include_usage: bool = False
    obfuscate: bool = False
    echoes: tuple[str, ...] = ()  # of each job, put before its choices

    def echo_of(self, index: int) -> str:
        """What goes before the choice that stands at ``index`` of the response."""
        return self.echoes[index // self.choices] if self.echoes else ""

    @property
    def want_receipt(self) -> bool:
        return self.jobs[0].want_receipt


def asked(
    endpoint: Endpoint, wanted: CommonRequest, jobs: Sequence[Job], echoes: tuple[str, ...] = ()
) -> Asked:
    """How ``wanted`` wants its answer written."""
    options = wanted.stream_options
    return Asked(
        endpoint=endpoint,
        jobs=jobs,
        choices=wanted.n or 1,
        include_usage=bool(options and options.include_usage),
        obfuscate=bool(options and options.include_obfuscation),
        echoes=echoes,
    )


@dataclass(slots=True)
class Progress:
    """What the answers of one request have said so far."""

    wanted: Asked
    metrics: Metrics
    arrived: float
    started: dict[int, Started] = field(default_factory=dict)
    finished: dict[int, Finished] = field(default_factory=dict)
    spoke: bool = False

    def note(self, at: int, event: AnswerEvent) -> Delta | None:
        """Take in an event of answer ``at``; a delta comes back as the client should see it."""
        if isinstance(event, Started):
            self.started[at] = event
            if event.cache_status is not None:
                self.metrics.cache(_is_hit(event.cache_status))
            return None
        if isinstance(event, Finished):
            self.finished[at] = event
            return None
        if not self.spoke and event.text:
            self.spoke = True
            self.metrics.first_token(self.tier_of(at), time.monotonic() - self.arrived)
        return event if at == 0 else replace(event, choice=at * self.wanted.choices + event.choice)

    def tier_of(self, at: int) -> str:
        return self.started[at].tier if at in self.started else "none"

    @property
    def model(self) -> str:
        """The tier that answered, or `auto` when several did."""
        tiers = {one.tier for one in self.started.values()}
        return tiers.pop() if len(tiers) == 1 else AUTO

    def complete(self) -> None:
        """Check that every answer came to its end.

        Raises:
            TierBroken: one did not.
        """
        if len(self.finished) != len(self.wanted.jobs):
            raise TierBroken("an answer ended without saying so")

    def usage(self) -> Usage:
        return sum_usage([one.usage for one in self.finished.values()])

    def fingerprint(self) -> str | None:
        prints = {one.fingerprint for one in self.finished.values()}
        return prints.pop() if len(prints) == 1 else None

    def receipt(self) -> Json:
        """One receipt as it is, several as a list under `prompts`; None if nobody asked."""
        if not self.wanted.want_receipt:
            return None
        receipts = [dict(self.finished[at].receipt) for at in sorted(self.finished)]
        return receipts[0] if len(receipts) == 1 else {"prompts": receipts}


async def write_answer(request: web.Request, wanted: Asked) -> web.StreamResponse:
    """Answer the request; leaving in any way cancels whatever still runs for it."""
    front = request.app[FRONT]
    progress = Progress(wanted, front.metrics, request[ARRIVED])
    write = _stream if wanted.jobs[0].stream else _whole
    asked_at = time.monotonic()
    async with front.admission.place():
        jobs = [_less(job, time.monotonic() - asked_at) for job in wanted.jobs]
        async with aclosing(answers(front.answerer, jobs)) as events:
            try:
                return await write(request, front, progress, events)
            finally:
                request[ANSWERED_BY] = progress.model if progress.started else "none"


def _less(job: Job, waited_s: float) -> Job:
    """``job`` after it stood in line.

    Raises:
        ApiError: 408, whoever asked no longer waits for it.
    """
    if job.deadline_s is None:
        return job
    if waited_s >= job.deadline_s:
        raise ApiError(408, "The request's deadline passed while it waited.", type="timeout_error")
    return replace(job, deadline_s=job.deadline_s - waited_s)


async def _whole(
    request: web.Request, front: Front, progress: Progress, events: Events
) -> web.StreamResponse:
    wanted = progress.wanted
    count = len(wanted.jobs) * wanted.choices
    choices = [Choice(index, [wanted.echo_of(index)]) for index in range(count)]
    async for at, event in events:
        delta = progress.note(at, event)
        if delta is not None:
            choices[delta.choice].add(delta)
    progress.complete()
    body = whole_body(
        new_head(wanted.endpoint, progress.model),
        choices,
        progress.usage(),
        fingerprint=progress.fingerprint(),
        receipt=progress.receipt(),
    )
    return web.Response(
        body=dump(body), content_type="application/json", headers=_headers(progress)
    )


async def _stream(
    request: web.Request, front: Front, progress: Progress, events: Events
) -> web.StreamResponse:
    """The first event decides the status: what fails before it is no 200."""
    first = await anext(events, None)
    if first is None:
        raise TierBroken("the answer ended before it began")
    progress.note(*first)
    async with aclosing(_frames(progress, events)) as frames:
        return await send_events(
            request,
            frames,
            _headers(progress),
            heartbeat_s=front.heartbeat_s,
            write_timeout_s=front.write_timeout_s,
        )


async def _frames(progress: Progress, events: Events) -> AsyncGenerator[bytes]:
    wanted = progress.wanted
    head = new_head(wanted.endpoint, progress.model)
    chunks = Chunks(head, include_usage=wanted.include_usage, obfuscate=wanted.obfuscate)
    count = len(wanted.jobs) * wanted.choices
    yield b"".join(chunks.opening(count))
    for index in range(count if wanted.echoes else 0):
        yield b"".join(chunks.more(Delta(choice=index, text=wanted.echo_of(index))))
    async for at, event in events:
        delta = progress.note(at, event)
        if delta is not None:
            yield b"".join(chunks.more(delta))
    progress.complete()
    yield b"".join(
        chunks.closing(
            progress.usage(), fingerprint=progress.fingerprint(), receipt=progress.receipt()
        )
    )


def _headers(progress: Progress) -> dict[str, str]:
    started = [progress.started[at] for at in sorted(progress.started)]
    first = started[0]
    headers = {
        "x-spillway-tier": ", ".join(dict.fromkeys(one.tier for one in started)),
        "x-spillway-policy-version": str(first.policy_version),
        "Cache-Control": "private",  # whoever stores answers on the way may do so for one caller
    }
    if len(progress.wanted.jobs) == 1:
        if first.cache_status is not None:
            headers["Cache-Status"] = first.cache_status
        if first.age_s is not None:
            headers["Age"] = str(first.age_s)
    return headers


def _is_hit(cache_status: str) -> bool:
    """Whether an RFC 9211 value says `hit`."""
    return "hit" in (parameter.strip() for parameter in cache_status.split(";"))
