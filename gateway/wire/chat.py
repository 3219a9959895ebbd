"""The request body of `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.wire.fields import (
    CommonRequest,
    EngineSpillwayOptions,
    Label,
    Metadata,
    Name,
    NoneOf,
    Only,
    OnlyFalse,
    Prediction,
    Strict,
    Text,
    TokenCount,
    Unsupported,
)

MAX_TOP_LOGPROBS = 20


class Message(Strict):
    """One turn. An assistant's turn may be passed back just as a response gave it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text
    name: Name | None = None
    refusal: Unsupported = None
    annotations: NoneOf = None
    audio: Unsupported = None
    function_call: Unsupported = None
    tool_calls: NoneOf = None


class ChatRequest(CommonRequest):
    """A conversation to continue."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    prediction: Prediction | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Label | None = None
    parallel_tool_calls: bool | None = None  # means nothing without tools
    store: OnlyFalse = None
    tools: NoneOf = None
    tool_choice: Annotated[
        Any,
        Only(
            (
                "none",
                "auto",
            )
        ),
    ] = None
    functions: NoneOf = None
    function_call: Annotated[
        Any,
        Only(
            (
                "none",
                "auto",
            )
        ),
    ] = None
    response_format: Annotated[Any, Only(({"type": "text"},))] = None
    modalities: Annotated[Any, Only((["text"],))] = None
    audio: Unsupported = None
    web_search_options: Unsupported = None
    reasoning_effort: Unsupported = None
    verbosity: Unsupported = None
    moderation: Unsupported = None


class EngineChatRequest(ChatRequest):
    """The same as a gateway sends it to its engine."""

    spillway: EngineSpillwayOptions | None = None
