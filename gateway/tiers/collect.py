"""Asks tiers prompts with known answers and records what comes of it, over HTTP."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import aiohttp

from gateway.generation import Json
from gateway.tiers.client import address_of
from gateway.tiers.graded import CollectError, Prompt
from router_model.evidence import logprobs_of, margins_of
from router_model.outcomes import Outcome, digest_of, format_outcome, read_outcomes

ATTEMPTS = 5
PAUSE_S = 0.25
"""Before the second attempt; twice as long before each further one."""
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_TOO_LONG = "context_length_exceeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A tier to ask: where it is and what its model is called there."""

    tier: str
    url: str  # http(s)://host/v1 or unix:/path
    model: str
    api_key_env: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How to ask."""

    concurrency: int = 32
    max_tokens: int = 512
    timeout_s: float = 300.0
    logprobs: bool = True


Progress = Callable[[str, int, int, int], None]
"""Called after each answer: tier, prompts done, prompts in all, right answers so far."""


async def collect(
    prompts: Sequence[Prompt],
    targets: Sequence[Target],
    out: Path,
    *,
    asking: Asking = Asking(),
    progress: Progress = lambda *_: None,
) -> int:
    """Ask every target every prompt it has not answered in ``out`` yet; append outcomes there.

    Returns how many outcomes were added. One target after the other, so that latencies compare.
    A prompt too long for a tier counts as answered wrongly.

    Raises:
        CollectError: a target refused a prompt or could not be reached in several attempts.
        OutcomeError: ``out`` holds something else.
    """
    done = _done(out)
    added = 0
    with out.open("a", encoding="utf-8") as file:
        for target in targets:
            todo = [p for p in prompts if (digest_of(p.request), target.tier) not in done]
            await _ask_all(todo, target, asking, _Recorder(file, target.tier, len(todo), progress))
            added += len(todo)
    return added


def _done(out: Path) -> set[tuple[int, str]]:
    """What a file holds already; a last line that was cut off is dropped."""
    if not out.exists():
        return set()
    text = out.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        out.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    return {(outcome.digest, outcome.tier) for outcome in read_outcomes(out)}


class _Recorder:
    """Writes outcomes as they come and counts them."""

    def __init__(self, file: TextIO, tier: str, total: int, progress: Progress) -> None:
        self._file, self._tier, self._total, self._progress = file, tier, total, progress
        self._done = self._right = 0

    def write(self, outcome: Outcome) -> None:
        self._file.write(format_outcome(outcome) + "\n")
        self._file.flush()
        self._done += 1
        self._right += outcome.correct
        self._progress(self._tier, self._done, self._total, self._right)


async def _ask_all(
    prompts: Sequence[Prompt], target: Target, asking: Asking, recorder: _Recorder
) -> None:
    waiting = iter(prompts)
    async with _session(target, asking) as session:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(asking.concurrency, len(prompts))):
                    group.create_task(_work(waiting, session, target, asking, recorder))
        except* CollectError as failures:
            raise failures.exceptions[0] from None


async def _work(
    waiting: Iterator[Prompt],
    session: aiohttp.ClientSession,
    target: Target,
    asking: Asking,
    recorder: _Recorder,
) -> None:
    for prompt in waiting:
        recorder.write(await _ask(prompt, session, target, asking))


def _session(target: Target, asking: Asking) -> aiohttp.ClientSession:
    socket = address_of(target.url).socket
    connector = (
        aiohttp.UnixConnector(str(socket), limit=0) if socket else aiohttp.TCPConnector(limit=0)
    )
    headers = {"cache-control": "no-store"}
    if target.api_key_env:
        key = os.environ.get(target.api_key_env)
        if not key:
            raise CollectError(f"got no variable {target.api_key_env!r}, expected an API key in it")
        headers["authorization"] = f"Bearer {key}"
    timeout = aiohttp.ClientTimeout(total=asking.timeout_s)
    return aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout)


async def _ask(
    prompt: Prompt, session: aiohttp.ClientSession, target: Target, asking: Asking
) -> Outcome:
    """One answer, asked for again while the tier is busy."""
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(PAUSE_S * 2 ** (attempt - 1))
        started = time.perf_counter()
        try:
            status, answer = await _post(prompt, session, target, asking)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            continue
        if status == 200:
            return _outcome(prompt, target, answer, 1000 * (time.perf_counter() - started))
        reason = f"status {status}: {str(answer)[:300]}"
        if status not in _BUSY:
            break
    if _TOO_LONG in reason:
        return _refused(prompt, target)
    raise CollectError(f"tier {target.tier!r} at {target.url}: {reason}")


async def _post(
    prompt: Prompt, session: aiohttp.ClientSession, target: Target, asking: Asking
) -> tuple[int, Json]:
    asked = prompt.request
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
    body: dict[str, Json] = {
        "model": target.model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": asking.max_tokens,
    }
    if asking.logprobs:
        body |= {"logprobs": True, "top_logprobs": 2}
    url = f"{address_of(target.url).base}/chat/completions"
    async with session.post(url, json=body) as response:
        return response.status, await response.json(content_type=None)


def _outcome(prompt: Prompt, target: Target, answer: Json, latency_ms: float) -> Outcome:
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"] or ""
    except (KeyError, IndexError, TypeError) as error:
        raise CollectError(
            f"tier {target.tier!r}: expected a chat completion, got {error!r}"
        ) from None
    usage: Mapping[str, Json] = answer.get("usage") or {}
    entries = (choice.get("logprobs") or {}).get("content")
    logprobs = logprobs_of(entries)
    return Outcome(
        **_asked(prompt, target),
        answer=text,
        correct=prompt.grade(text),
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=usage.get("prompt_tokens"),
        tokens=usage.get("completion_tokens"),
        latency_ms=round(latency_ms, 2),
        logprobs=logprobs,
        margins=margins_of(entries) if logprobs else None,
        fingerprint=answer.get("system_fingerprint"),
    )


def _refused(prompt: Prompt, target: Target) -> Outcome:
    return Outcome(**_asked(prompt, target), answer="", correct=False)


def _asked(prompt: Prompt, target: Target) -> dict[str, Json]:
    asked = prompt.request
    key = "prompt" if isinstance(asked, str) else "messages"
    return {key: asked, "split": prompt.split, "family": prompt.family, "tier": target.tier}
