"""One answer as it is gathered from a tier, and once it is whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway.generation import Delta, Json, Usage

MAX_ANSWER_CHARS = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One finished choice of an answer. ``logprobs`` are OpenAI's chat entries, one a token."""

    text: str
    finish_reason: str | None
    logprobs: tuple[Mapping[str, Json], ...] | None = None

    def delta(self, index: int) -> Delta:
        """The whole choice in one piece."""
        return Delta(
            choice=index,
            text=self.text,
            logprobs=self.logprobs,
            finish_reason=self.finish_reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one tier answered: every choice, and what it cost."""

    tier: str
    choices: tuple[Choice, ...]
    usage: Usage
    fingerprint: str | None = None

    def deltas(self) -> Iterator[Delta]:
        """Every choice in one piece."""
        for index, choice in enumerate(self.choices):
            yield choice.delta(index)


@dataclass(slots=True)
class _Growing:
    text: list[str] = field(default_factory=list)
    logprobs: list[Mapping[str, Json]] | None = None
    finish_reason: str | None = None

    def whole(self) -> Choice:
        logprobs = None if self.logprobs is None else tuple(self.logprobs)
        return Choice(text="".join(self.text), finish_reason=self.finish_reason, logprobs=logprobs)


class Gathering:
    """Puts deltas together, up to a bound. ``overfull`` once the bound is passed."""

    def __init__(self, choices: int, *, max_chars: int = MAX_ANSWER_CHARS) -> None:
        self._growing = [_Growing() for _ in range(choices)]
        self._left = max_chars
        self.overfull = False

    def add(self, delta: Delta) -> None:
        """Take in one more piece; pieces past the bound are dropped."""
        self._left -= len(delta.text)
        if self._left < 0 or not 0 <= delta.choice < len(self._growing):
            self.overfull = True
            return
        choice = self._growing[delta.choice]
        choice.text.append(delta.text)
        if delta.logprobs is not None:
            choice.logprobs = choice.logprobs or []
            choice.logprobs.extend(delta.logprobs)
        choice.finish_reason = delta.finish_reason or choice.finish_reason

    def choices(self) -> tuple[Choice, ...]:
        """What was gathered so far."""
        return tuple(choice.whole() for choice in self._growing)
