"""What one chunk of a server's stream says, read with suspicion: other people's servers differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gateway.errors import TierBroken
from gateway.generation import Delta, Endpoint, Json, TierDone, Usage


@dataclass(slots=True)
class Progress:
    """What a stream has said so far besides text."""

    endpoint: Endpoint
    choices: int
    events: dict[int, int] = field(default_factory=dict)  # chunks with text, by choice
    finished: set[int] = field(default_factory=set)
    usage: Usage | None = None
    fingerprint: str | None = None
    receipt: Mapping[str, Json] | None = None

    def read(self, payload: str) -> Iterator[Delta]:
        """Deltas of one chunk; those that carry nothing are left out.

        Raises:
            TierBroken: not a JSON object, or shaped unlike a chunk.
            StreamError: the server reports an error in-band.
        """
        chunk = _object(payload)
        if "error" in chunk and chunk["error"] is not None:
            raise StreamError(_message(chunk["error"]))
        if isinstance(chunk.get("usage"), dict):
            self.usage = read_usage(chunk["usage"])
        if isinstance(chunk.get("system_fingerprint"), str):
            self.fingerprint = chunk["system_fingerprint"]
        if isinstance(chunk.get("spillway"), dict):
            self.receipt = chunk["spillway"]
        choices = chunk.get("choices") or []
        if not isinstance(choices, list):
            raise TierBroken(f"got choices of type {type(choices).__name__}; expected an array")
        for choice in choices:
            yield from self._choice(choice)

    def _choice(self, choice: Any) -> Iterator[Delta]:
        delta = self._delta(choice)
        if not 0 <= delta.choice < self.choices:
            raise TierBroken(f"got choice {delta.choice} of {self.choices}")
        if delta.choice in self.finished:
            return
        if delta.text or delta.logprobs:
            self.events[delta.choice] = self.events.get(delta.choice, 0) + 1
        if delta.finish_reason is not None:
            self.finished.add(delta.choice)
        if delta.text or delta.logprobs or delta.finish_reason:
            yield delta

    def _delta(self, choice: Any) -> Delta:
        try:
            if self.endpoint == "chat":
                text = (choice.get("delta") or {}).get("content") or ""
                entries = (choice.get("logprobs") or {}).get("content") or []
            else:
                text = choice.get("text") or ""
                entries = _entries(choice.get("logprobs") or {})
            return Delta(
                choice=int(choice.get("index") or 0),
                text=_checked(text, str),
                logprobs=tuple(_checked(one, dict) for one in entries) or None,
                finish_reason=_checked(choice.get("finish_reason") or "", str) or None,
            )
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise TierBroken(f"got a chunk of unexpected shape ({error})") from None

    @property
    def complete(self) -> bool:
        """Whether every choice has said why it ended."""
        return len(self.finished) == self.choices

    def done(self) -> TierDone:
        """The end of the answer. Without usage, every chunk with text counts as one token."""
        usage = self.usage or Usage(completion_tokens=sum(self.events.values()))
        return TierDone(usage=usage, fingerprint=self.fingerprint, receipt=self.receipt)


class StreamError(Exception):
    """An error the server sent inside its stream."""


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """OpenAI's usage object; whatever is absent, null or no count is 0."""
    prompt = usage.get("prompt_tokens_details")
    completion = usage.get("completion_tokens_details")
    return Usage(
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        cached_tokens=_count(prompt, "cached_tokens"),
        accepted_prediction_tokens=_count(completion, "accepted_prediction_tokens"),
        rejected_prediction_tokens=_count(completion, "rejected_prediction_tokens"),
    )


def _count(table: Any, key: str) -> int:
    value = table.get(key) if isinstance(table, dict) else None
    return value if isinstance(value, int) and value >= 0 else 0


_Checked = TypeVar("_Checked")


def _checked(value: Any, kind: type[_Checked]) -> _Checked:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} instead of {kind.__name__}")
    return value


def _constant(name: str) -> float:
    """JSON has no infinity; minus infinity as a log-prob has a value of OpenAI's."""
    if name == "-Infinity":
        return -9999.0
    raise ValueError(f"{name} is no number")


def _object(payload: str) -> dict[str, Any]:
    try:
        chunk = json.loads(payload, parse_constant=_constant)
    except (ValueError, RecursionError):
        raise TierBroken(f"got a chunk that is not JSON: {payload[:80]!r}") from None
    if not isinstance(chunk, dict):
        raise TierBroken(f"got a chunk that is no object: {payload[:80]!r}")
    return chunk


def _message(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:500]


def _entries(logprobs: Mapping[str, Any]) -> list[dict[str, Json]]:
    """The completions endpoint's parallel arrays as the chat endpoint's entries."""
    tokens = logprobs.get("tokens") or []
    values = logprobs["token_logprobs"] if tokens else []
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    return [
        {
            "token": token,
            "logprob": value,
            "bytes": list(str(token).encode("utf-8", "replace")),
            "top_logprobs": [
                {"token": rival, "logprob": score, "bytes": list(rival.encode("utf-8", "replace"))}
                for rival, score in (top or {}).items()
            ],
        }
        for token, value, top in zip(tokens, values, tops, strict=True)
    ]
