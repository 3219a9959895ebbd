"""A kept answer: every choice, the original usage, and why it was good enough."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from gateway.cascade.answer import Answer, Choice
from gateway.generation import Json, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One answer and the evidence it was accepted on. ``created`` is in Unix seconds."""

    answer: Answer
    created: float
    policy_version: int
    score: float | None = None
    probabilities: Mapping[str, float] | None = None
    estimator: str | None = None

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Self | None:
        """Read what ``encode`` wrote; None for anything else."""
        try:
            value = json.loads(raw)
            answer = _answer(value.pop("answer"))
            entry = cls(answer=answer, **value)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return entry if answer.choices and isinstance(entry.created, float) else None


def _answer(value: Json) -> Answer:
    return Answer(
        tier=value["tier"],
        choices=tuple(_choice(one) for one in value["choices"]),
        usage=Usage(**value["usage"]),
        fingerprint=value["fingerprint"],
    )


def _choice(value: Json) -> Choice:
    logprobs = value["logprobs"]
    return Choice(
        text=value["text"],
        finish_reason=value["finish_reason"],
        logprobs=None if logprobs is None else tuple(logprobs),
    )
