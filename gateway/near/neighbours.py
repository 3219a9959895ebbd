"""Finds answers to similar requests beside the first tier, and learns new ones."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.cascade.answer import Answer
from gateway.generation import Job, Json
from gateway.near.embedder import Embedder
from gateway.near.index import Index
from gateway.near.sentences import Vector

MAX_TEXT_CHARS = 16 * 1024
_MOST_TASKS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class NearRules:
    """What counts as near, and how long a request may wait to hear of it."""

    most: int = 3
    least_similarity: float = 0.5
    budget_s: float = 0.015


class Search:
    """One request's search. It runs by itself; nobody has to wait for it."""

    def __init__(
        self, task: asyncio.Task[Vector | None], index: Index, tenant: str, rules: NearRules
    ):
        self._task = task
        self._index = index
        self._tenant = tenant
        self._rules = rules
        loop = asyncio.get_running_loop()
        self._until = loop.time() + (rules.budget_s if index.holds(tenant) else 0.0)

    async def found(self) -> Sequence[str]:
        """Texts of neighbours, if they are known before the request's budget is spent."""
        left_s = self._until - asyncio.get_running_loop().time()
        if not self._task.done() and left_s > 0:
            await asyncio.wait({self._task}, timeout=left_s)
        vector = self._vector()
        if vector is None:
            return ()
        rules = self._rules
        return self._index.nearest(self._tenant, vector, rules.most, rules.least_similarity)

    def learn(self, answer: Answer) -> None:
        """Remember the answer for requests like this one, as soon as its vector is known."""
        text = answer.choices[0].text[:MAX_TEXT_CHARS]
        ended = answer.choices[0].finish_reason in ("stop", "length")
        if ended and text.strip():
            self._task.add_done_callback(lambda _: self._add(text))

    def _add(self, text: str) -> None:
        vector = self._vector()
        if vector is not None:
            self._index.add(self._tenant, vector, text)

    def _vector(self) -> Vector | None:
        if not self._task.done() or self._task.cancelled() or self._task.exception() is not None:
            return None
        return self._task.result()


class Neighbours:
    """Similar requests of the same tenant. What it finds may be wrong: it is only ever a draft."""

    def __init__(self, embedder: Embedder, index: Index, rules: NearRules | None = None) -> None:
        self.index = index
        self._embedder = embedder
        self._rules = rules or NearRules()
        self._tasks: set[asyncio.Task[Vector | None]] = set()

    def search(self, job: Job) -> Search | None:
        """Begin to look for neighbours of ``job``; None where there can be none."""
        text = asked_text(job.body)
        if text is None or "no-store" in job.cache_control or len(self._tasks) >= _MOST_TASKS:
            return None
        task = asyncio.create_task(self._embedder.embed(text))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Search(task, self.index, job.identity.tenant, self._rules)

    async def aclose(self) -> None:
        """End what still runs."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def asked_text(body: Mapping[str, Json]) -> str | None:
    """What a request is about: its last message, or the end of its prompt; None without text."""
    messages = body.get("messages")
    if messages:
        content = messages[-1].get("content")
        if isinstance(content, list):
            content = " ".join(str(part.get("text", "")) for part in content)
        return content if isinstance(content, str) and content.strip() else None
    prompt = body.get("prompt")
    return prompt if isinstance(prompt, str) and prompt.strip() else None
