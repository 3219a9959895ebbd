"""A kept answer: every choice, the original usage, and why it was good enough."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple, Self

from gateway.cascade.answer import Answer, Choice
from gateway.generation import Json, Usage

LABEL_BYTES = 512
"""No label is longer; so much of a payload is enough to read it."""


def fields_of(value: Json) -> dict[str, Json]:
    """A dataclass as JSON takes it, without copying what is in it."""
    return {one.name: getattr(value, one.name) for one in fields(value)}


class Label(NamedTuple):
    """What an operator may want to know of an entry without reading all of it."""

    model: str  # the one that was asked for
    tier: str
    created: float  # Unix seconds

    @classmethod
    def read(cls, payload: bytes) -> Self | None:
        """The label at the beginning of a payload, whole or cut; None if there is none."""
        line, found, _ = payload[:LABEL_BYTES].partition(b"\n")
        if not found:
            return None
        try:
            model, tier, created = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            return None
        sound = isinstance(model, str) and isinstance(tier, str) and isinstance(created, float)
        return cls(model, tier, created) if sound else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One answer and the evidence it was accepted on. ``created`` is in Unix seconds."""

    answer: Answer
    created: float
    policy_version: int
    model: str = "auto"  # the one that was asked for
    score: float | None = None
    probabilities: Mapping[str, float] | None = None
    estimator: str | None = None

    def encode(self) -> bytes:
        """A line with the label, then everything as JSON."""
        label = Label(self.model, self.answer.tier, self.created)
        line = json.dumps(label, separators=(",", ":"), allow_nan=False).encode()
        body = json.dumps(self, default=fields_of, separators=(",", ":"), allow_nan=False).encode()
        return line + b"\n" + body

    @classmethod
    def decode(cls, raw: bytes) -> Self | None:
        """Read what ``encode`` wrote; None for anything else."""
        try:
            value = json.loads(raw.partition(b"\n")[2])
            answer = _answer(value.pop("answer"))
            entry = cls(answer=answer, **value)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return entry if answer.choices and isinstance(entry.created, float) else None


def _answer(value: Json) -> Answer:
    choices = tuple(_choice(**one) for one in value.pop("choices"))
    return Answer(choices=choices, usage=Usage(**value.pop("usage")), **value)


def _choice(*, logprobs: Json, **rest: Json) -> Choice:
    """Whatever a choice comes to consist of is kept; what does not fit is no choice."""
    return Choice(logprobs=None if logprobs is None else tuple(logprobs), **rest)
