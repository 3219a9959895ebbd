"""Answers as OpenAI's bodies and stream chunks, for both endpoints."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.generation import Delta, Endpoint, Json, Usage

_PREFIXES: Mapping[Endpoint, str] = {"chat": "chatcmpl-", "completions": "cmpl-"}
_PAD_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the body, or every chunk, of one response shares."""

    endpoint: Endpoint
    id: str
    created: int  # Unix seconds
    model: str


def new_head(endpoint: Endpoint, model: str) -> Head:
    """A head with a fresh id, created now."""
    name = _PREFIXES[endpoint] + secrets.token_hex(12)
    return Head(endpoint=endpoint, id=name, created=int(time.time()), model=model)


@dataclass(slots=True)
class Choice:
    """One choice as it grows."""

    index: int
    parts: list[str] = field(default_factory=list)
    logprobs: list[Mapping[str, Json]] | None = None
    finish_reason: str | None = None

    def add(self, delta: Delta) -> None:
        """Take in one more piece."""
        self.parts.append(delta.text)
        if delta.logprobs is not None:
            self.logprobs = [*(self.logprobs or ()), *delta.logprobs]
        self.finish_reason = delta.finish_reason or self.finish_reason


def gather(deltas: Iterable[Delta], count: int) -> list[Choice]:
    """Merge ``deltas`` into ``count`` choices, in order of index."""
    choices = [Choice(index) for index in range(count)]
    for delta in deltas:
        choices[delta.choice].add(delta)
    return choices


def usage_json(usage: Usage) -> dict[str, Json]:
    """The ``usage`` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": usage.accepted_prediction_tokens,
            "rejected_prediction_tokens": usage.rejected_prediction_tokens,
        },
    }


def sum_usage(usages: Sequence[Usage]) -> Usage:
    """What several answers used together."""
    return Usage(
        prompt_tokens=sum(one.prompt_tokens for one in usages),
        completion_tokens=sum(one.completion_tokens for one in usages),
        cached_tokens=sum(one.cached_tokens for one in usages),
        accepted_prediction_tokens=sum(one.accepted_prediction_tokens for one in usages),
        rejected_prediction_tokens=sum(one.rejected_prediction_tokens for one in usages),
    )


def whole_body(
    head: Head,
    choices: Sequence[Choice],
    usage: Usage,
    *,
    fingerprint: str | None = None,
    receipt: Json = None,
) -> dict[str, Json]:
    """The body of an answer that is not streamed; ``receipt`` None leaves ``spillway`` out."""
    name = "chat.completion" if head.endpoint == "chat" else "text_completion"
    shape = _chat_choice if head.endpoint == "chat" else _text_choice
    body = {
        "id": head.id,
        "object": name,
        "created": head.created,
        "model": head.model,
        "choices": [shape(one) for one in choices],
        "usage": usage_json(usage),
        "system_fingerprint": fingerprint,
    }
    if receipt is not None:
        body["spillway"] = receipt
    return body


def _chat_choice(choice: Choice) -> dict[str, Json]:
    return {
        "index": choice.index,
        "message": {"role": "assistant", "content": "".join(choice.parts), "refusal": None},
        "logprobs": _chat_logprobs(choice.logprobs),
        "finish_reason": choice.finish_reason or "stop",
    }


def _text_choice(choice: Choice) -> dict[str, Json]:
    return {
        "index": choice.index,
        "text": "".join(choice.parts),
        "logprobs": _legacy_logprobs(choice.logprobs, 0),
        "finish_reason": choice.finish_reason or "stop",
    }


def _chat_logprobs(entries: Sequence[Mapping[str, Json]] | None) -> dict[str, Json] | None:
    return None if entries is None else {"content": list(entries), "refusal": None}


def _legacy_logprobs(
    entries: Sequence[Mapping[str, Json]] | None, offset: int
) -> dict[str, Json] | None:
    """``offset`` is where the first token begins in the choice's text, in characters."""
    if entries is None:
        return None
    tokens = [str(entry["token"]) for entry in entries]
    starts = [offset + sum(map(len, tokens[:at])) for at in range(len(tokens))]
    tops = [
        None  # nothing comes before the first token of an echoed prompt
        if entry["logprob"] is None
        else {str(rival["token"]): rival["logprob"] for rival in entry.get("top_logprobs") or ()}
        for entry in entries
    ]
    return {
        "tokens": tokens,
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": starts,
    }


class Chunks:
    """The chunks of one streamed answer: role, text, one finish per choice, then usage."""

    def __init__(self, head: Head, *, include_usage: bool = False, obfuscate: bool = False) -> None:
        self._chat = head.endpoint == "chat"
        self._base: dict[str, Json] = {
            "id": head.id,
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": head.created,
            "model": head.model,
        }
        self._include_usage = include_usage
        self._obfuscate = obfuscate
        self._offsets: dict[int, int] = {}
        self._finished: set[int] = set()

    def opening(self, count: int) -> list[bytes]:
        """The role of each of ``count`` choices; text completions have none."""
        if not self._chat:
            return []
        first = {"role": "assistant", "content": "", "refusal": None}
        return [self._frame(self._chat_chunk(index, first)) for index in range(count)]

    def more(self, delta: Delta) -> list[bytes]:
        """One piece of one choice. A finish repeated for an index is dropped."""
        if delta.choice in self._finished:
            return []
        if delta.finish_reason is not None:
            self._finished.add(delta.choice)
        if self._chat:
            return [self._frame(one) for one in self._chat_pieces(delta)]
        return [self._frame(self._text_chunk(delta))]

    def closing(
        self, usage: Usage, *, fingerprint: str | None = None, receipt: Json = None
    ) -> list[bytes]:
        """Usage and receipt where they were asked for, then the end mark."""
        frames = []
        if self._include_usage or receipt is not None:
            last = {**self._base, "choices": [], "system_fingerprint": fingerprint}
            if self._include_usage:
                last["usage"] = usage_json(usage)
            if receipt is not None:
                last["spillway"] = receipt
            frames.append(event(last))
        return [*frames, DONE]

    def _chat_pieces(self, delta: Delta) -> Iterable[dict[str, Json]]:
        """The finish comes in a chunk of its own, with an empty delta, as OpenAI sends it."""
        if delta.text or delta.logprobs:
            chunk = self._chat_chunk(delta.choice, {"content": delta.text})
            chunk["choices"][0]["logprobs"] = _chat_logprobs(delta.logprobs)
            yield chunk
        if delta.finish_reason is not None:
            yield self._chat_chunk(delta.choice, {}, delta.finish_reason)

    def _chat_chunk(
        self, index: int, delta: Mapping[str, Json], finish: str | None = None
    ) -> dict[str, Json]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._base, "choices": [choice]}

    def _text_chunk(self, delta: Delta) -> dict[str, Json]:
        offset = self._offsets.get(delta.choice, 0)
        entries = delta.logprobs or ()
        self._offsets[delta.choice] = offset + sum(len(str(one["token"])) for one in entries)
        choice = {
            "index": delta.choice,
            "text": delta.text,
            "logprobs": _legacy_logprobs(delta.logprobs, offset),
            "finish_reason": delta.finish_reason,
        }
        return {**self._base, "choices": [choice]}

    def _frame(self, chunk: dict[str, Json]) -> bytes:
        if self._include_usage:
            chunk["usage"] = None
        return padded_event(chunk) if self._obfuscate else event(chunk)


def dump(value: Any) -> bytes:
    """Compact ASCII JSON: no line separator of any kind can break a client's line splitting."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + dump(value) + b"\n\n"


def padded_event(chunk: Mapping[str, Json]) -> bytes:
    """One event filled up to a whole number of blocks, so that its size does not tell its text."""
    bare = len(event({**chunk, "obfuscation": ""}))
    filler = secrets.token_hex(_PAD_BYTES // 2)[: -bare % _PAD_BYTES]
    return event({**chunk, "obfuscation": filler})


DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": \n\n"
