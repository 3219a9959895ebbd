"""A validated request, its headers and its caller as jobs for the cascade."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from gateway.errors import ApiError
from gateway.faces.front import AUTO, IDENTITY
from gateway.generation import Endpoint, Identity, Job
from gateway.wire.chat import ChatRequest, Message
from gateway.wire.completion import CompletionRequest
from gateway.wire.fields import CommonRequest, Only
from gateway.wire.middleware import ARRIVED, REQUEST_ID

_OURS = {
    "model", "stream", "stream_options", "spillway", "cache_salt", "user", "metadata",
    "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier",
    "parallel_tool_calls",
}  # fmt: skip
_LONGEST_DEADLINE_S = 86_400.0


def _defaults_only(model: Any) -> set[str]:
    """Fields that may carry nothing but their default: no tier needs to see them."""
    return {
        name
        for name, field in model.model_fields.items()
        if any(isinstance(one, Only) for one in field.metadata)
    }


_CHAT_DROPPED: Any = {
    **dict.fromkeys(_OURS | _defaults_only(ChatRequest), True),
    "messages": {"__all__": _defaults_only(Message)},
}
_COMPLETION_DROPPED: Any = _OURS | _defaults_only(CompletionRequest) | {"prompt"}


def chat_job(request: web.Request, wanted: ChatRequest) -> Job:
    """The one job of a chat request."""
    body = wanted.model_dump(exclude_unset=True, exclude_none=True, exclude=_CHAT_DROPPED)
    return _job(request, wanted, "chat", request[REQUEST_ID], body)


def completion_jobs(request: web.Request, wanted: CompletionRequest) -> list[Job]:
    """A job for each prompt.

    Raises:
        ApiError: 400, tokens for a model that is yet to be chosen.
    """
    prompts = wanted.prompts()
    if wanted.model == AUTO and not isinstance(prompts[0], str):
        raise ApiError(
            400,
            "Token ids mean different text to each model; expected text, or the name of one model.",
            param="prompt",
        )
    body = wanted.model_dump(exclude_unset=True, exclude_none=True, exclude=_COMPLETION_DROPPED)
    if body.pop("echo", False) and not own_echoes(wanted):
        _check_one_model(wanted)
        body["echo"] = True
    name = request[REQUEST_ID]
    return [
        _job(
            request,
            wanted,
            "completions",
            name if len(prompts) == 1 else f"{name}-{at}",
            {"prompt": prompt, **body},
        )
        for at, prompt in enumerate(prompts)
    ]


def own_echoes(wanted: CompletionRequest) -> tuple[str, ...]:
    """What the front end puts before the answer to each prompt.

    Nothing where the tier must echo: only it knows a prompt's log-probs, or the text of tokens.
    """
    prompts = [one for one in wanted.prompts() if isinstance(one, str)]
    if not wanted.echo or not prompts or wanted.logprobs is not None or wanted.max_tokens == 0:
        return ()
    return tuple(prompts)


def _check_one_model(wanted: CompletionRequest) -> None:
    if wanted.model == AUTO:
        raise ApiError(
            400,
            "'echo' with 'logprobs' or without an answer tells how one model reads the prompt; "
            "expected the name of one model.",
            param="echo",
        )


def _job(
    request: web.Request,
    wanted: CommonRequest,
    endpoint: Endpoint,
    name: str,
    body: Mapping[str, Any],
) -> Job:
    options = wanted.spillway
    speculation = options.speculation if options else None
    cache_control = _directives(request.headers.get("Cache-Control", ""))
    return Job(
        request_id=name,
        endpoint=endpoint,
        model=wanted.model,
        body=body,
        identity=_unshared(request[IDENTITY], cache_control),
        stream=bool(wanted.stream),
        speculation=speculation.model_dump(exclude_none=True) if speculation else None,
        want_receipt=bool(options and options.receipt),
        deadline_s=None if wanted.stream else deadline_s(request),
        cache_control=cache_control,
    )


def _unshared(identity: Identity, cache_control: frozenset[str]) -> Identity:
    """What an engine keeps of a `no-store` request lies under a salt that is never used again."""
    if "no-store" not in cache_control:
        return identity
    return replace(identity, cache_salt=secrets.token_hex(32))


def deadline_s(request: web.Request) -> float | None:
    """Seconds until the client stops waiting, as OpenAI's clients say; None when they do not.

    A stream has none: heartbeats keep its reader from giving up.
    """
    try:
        timeout_s = float(request.headers.get("x-stainless-read-timeout", "nan"))
    except ValueError:
        return None
    if not math.isfinite(timeout_s) or not 0 < timeout_s <= _LONGEST_DEADLINE_S:
        return None
    return max(0.0, timeout_s - (time.monotonic() - request[ARRIVED]))


def _directives(header: str) -> frozenset[str]:
    parts = (part.strip().lower() for part in header[:512].split(","))
    return frozenset(part for part in parts if part)
