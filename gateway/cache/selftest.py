"""The isolation self-test: the same salt hits, another salt misses, on every tier."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Literal, NamedTuple

from gateway.cache.entry import Entry
from gateway.cache.responses import ResponseCache
from gateway.cascade.answer import Answer, Choice
from gateway.errors import GatewayError
from gateway.generation import Identity, Job, Tier, TierDone, Usage

Outcome = Literal["passed", "failed", "skipped"]
_WORDS = 300
"""Enough for a few pages of keys and values in any vocabulary."""


class Check(NamedTuple):
    """One assertion and what came of it."""

    name: str
    outcome: Outcome
    detail: str


async def selftest(cache: ResponseCache, tiers: Sequence[Tier]) -> list[Check]:
    """Ask as two tenants that nobody else can be: answers first, then prefixes on each tier."""
    names = [f"selftest-{secrets.token_hex(16)}" for _ in range(2)]
    one, other = (Identity(tenant=name, cache_salt=secrets.token_hex(32)) for name in names)
    checks = await _answers(cache, tiers, one, other)
    for tier in tiers:
        checks.append(await _prefixes(tier, one, other))
    return checks


async def _answers(
    cache: ResponseCache, tiers: Sequence[Tier], one: Identity, other: Identity
) -> list[Check]:
    job, others_job = _job(one, tiers[-1].name), _job(other, tiers[-1].name)
    looked = await cache.look(job, tiers[-1:], _always)
    if looked.key is None or not cache.rules.responses:
        return [Check("responses", "skipped", f"nothing is kept for it: {looked.status}")]
    choice = Choice(text="selftest", finish_reason="stop")
    answer = Answer(tier=tiers[-1].name, choices=(choice,), usage=Usage())
    entry = Entry(answer=answer, created=cache.now(), policy_version=0, model=job.model)
    cache.keep(looked, job, tiers[-1:], entry, _always)
    await cache.flush()
    mine = await cache.look(job, tiers[-1:], _always)
    theirs = await cache.look(others_job, tiers[-1:], _always)
    return [
        _check("responses, same tenant hits", mine.entry == entry, mine.status),
        _check("responses, other tenant misses", theirs.entry is None, theirs.status),
    ]


async def _prefixes(tier: Tier, one: Identity, other: Identity) -> Check:
    """Cached prompt tokens of the same prompt: for the salt that asked before, and another."""
    name = f"prefixes of {tier.name}"
    if "cache_salt" not in tier.capabilities:
        return Check(name, "skipped", "its server takes no salt")
    if not tier.usable():
        return Check(name, "skipped", "it cannot be asked now")
    try:
        cold, warm, foreign = [
            await _cached_tokens(tier, _job(who, tier.name)) for who in (one, one, other)
        ]
    except GatewayError as error:
        return Check(name, "skipped", str(error))
    detail = f"cached tokens: first {cold}, same salt {warm}, other salt {foreign}"
    return _check(name, cold == 0 and warm > 0 and foreign == 0, detail)


async def _cached_tokens(tier: Tier, job: Job) -> int:
    body: Mapping[str, object] = job.body
    async with aclosing(tier.stream(job, body)) as events:  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, TierDone):
                return int(event.usage.cached_tokens)
    return 0


def _job(identity: Identity, model: str) -> Job:
    content = " ".join(f"w{at}" for at in range(_WORDS))
    messages = [{"role": "user", "content": f"{model} {content}"}]
    body = {"messages": messages, "temperature": 0, "max_tokens": 1}
    name = f"selftest-{secrets.token_hex(8)}"
    return Job(request_id=name, endpoint="chat", model=model, body=body, identity=identity)


def _check(name: str, passed: bool, detail: str) -> Check:
    return Check(name, "passed" if passed else "failed", detail)


def _always(entry: Entry) -> bool:
    return True
