"""A ladder of scripted tiers behind a real cascade."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.cache.responses import ResponseCache
from gateway.cascade.policy import Policy, Rung
from gateway.cascade.run import Cascade
from gateway.generation import AnswerEvent, Delta, Finished, Job, Started
from gateway.store.memory import MemoryStore

SECRET = b"s" * 32


@dataclass
class Fixed:
    current: Policy


@dataclass
class Answered:
    """What a client got."""

    events: list[AnswerEvent] = field(default_factory=list)

    @property
    def started(self) -> Started:
        assert isinstance(self.events[0], Started)
        return self.events[0]

    @property
    def finished(self) -> Finished:
        assert isinstance(self.events[-1], Finished)
        return self.events[-1]

    @property
    def deltas(self) -> list[Delta]:
        return [event for event in self.events if isinstance(event, Delta)]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(one["tier"], one["outcome"]) for one in self.finished.receipt["tiers"]]


async def ask(cascade: Cascade, job: Job) -> Answered:
    async with aclosing(cascade.answer(job)) as events:
        return Answered([event async for event in events])


@pytest.fixture
def asking() -> Callable[..., Any]:
    return ask


@pytest.fixture
def ladder(scripted: Any, speech: Any) -> dict[str, Any]:
    """Three tiers that answer with their own name."""
    return {
        name: scripted(name, speech.says("I am ", name)) for name in ("brook", "creek", "river")
    }


@pytest.fixture
def make_cascade(ladder: Mapping[str, Any]) -> Callable[..., Cascade]:
    """A cascade over ``ladder``; thresholds default to one half."""

    def make(
        *, thresholds: Mapping[str, tuple[float, float]] | None = None, cached: bool = False,
        **parts: Any,
    ) -> Cascade:  # fmt: skip
        given = thresholds or {}
        rungs = [Rung(name, *given.get(name, (0.5, 0.5))) for name in list(ladder)[:-1]]
        policy = Policy(4, (*rungs, Rung(list(ladder)[-1])))
        cache = ResponseCache(MemoryStore(), secret=SECRET) if cached else None
        return Cascade(list(ladder.values()), Fixed(policy), **{"cache": cache, **parts})

    return make
