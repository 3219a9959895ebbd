"""The values that travel between the HTTP faces, the cascade and the tiers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Endpoint = Literal["chat", "completions"]
Json = Any  # a value that came from or goes to JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who asks: established from the API key, never from the body."""

    tenant: str
    roles: frozenset[str] = frozenset()
    allowed_models: frozenset[str] | None = None  # None: all
    cache_salt: str = ""  # derived by the gateway from tenant and its own secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One prompt to answer.

    ``body`` is the validated request as a tier should receive it, less ``model``, ``stream``,
    ``stream_options``, ``spillway`` and anything about the caller; it holds only fields the client
    really sent. ``model`` is ``"auto"`` or a tier's name.
    """

    request_id: str
    endpoint: Endpoint
    model: str
    body: Mapping[str, Json]
    identity: Identity
    stream: bool = False
    speculation: Mapping[str, Json] | None = None  # the client's `spillway.speculation`
    want_receipt: bool = False
    deadline_s: float | None = None  # from now
    cacheable: bool = (
        True  # false when the body holds a field whose effect on the answer is unknown
    )
    cache_control: frozenset[str] = frozenset()  # the request's Cache-Control directives


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts in OpenAI's terms. Prediction counts are of the client's own prediction only."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """More of one choice. ``logprobs`` are entries of OpenAI's chat `logprobs.content`."""

    choice: int = 0
    text: str = ""
    logprobs: tuple[Mapping[str, Json], ...] | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TierDone:
    """End of a tier's answer."""

    usage: Usage
    fingerprint: str | None = None
    receipt: Mapping[str, Json] | None = None  # the engine's own receipt, when it gives one


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """First event of an answer: who answers, before any text, so headers can say so."""

    tier: str
    policy_version: int
    cache_status: str | None = None  # an RFC 9211 Cache-Status value
    age_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Last event of an answer."""

    usage: Usage
    fingerprint: str | None = None
    receipt: Mapping[str, Json] = field(default_factory=dict)


AnswerEvent = Started | Delta | Finished
TierEvent = Delta | TierDone


class Tier(Protocol):
    """An OpenAI-compatible endpoint plus a model name. Whose server it is makes no difference."""

    name: str
    capabilities: frozenset[str]  # of: prediction, logprobs, cache_salt, fingerprint, drafts

    @property
    def fingerprint(self) -> str | None:
        """What makes two answers comparable: weights, tokenizer, template; None while unknown."""
        ...

    @property
    def max_model_len(self) -> int | None:
        """Context length in tokens, None when the server does not say."""
        ...

    def usable(self) -> bool:
        """Whether a request sent now may succeed (healthy, breaker not open)."""
        ...

    def stream(self, job: Job, body: Mapping[str, Json]) -> AsyncIterator[TierEvent]:
        """Send ``body`` (without model and stream) and yield until ``TierDone``.

        Closing the iterator cancels the work on the server.

        Raises:
            ApiError: the server refused the request itself (4xx other than 408, 409, 425, 429).
            TierUnavailable: no answer was begun.
            TierBroken: the answer broke off after its first event.
        """
        ...


class Answerer(Protocol):
    """What the HTTP faces call: the cascade in front of all tiers, caches included."""

    def answer(self, job: Job) -> AsyncIterator[AnswerEvent]:
        """Yield ``Started``, any number of ``Delta``, then ``Finished``. Closing it cancels work.

        Raises:
            ApiError: before ``Started`` only, with the status the client should see.
            TierBroken: after ``Started``.
        """
        ...
