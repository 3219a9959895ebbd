"""The request body of `POST /v1/completions`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from gateway.wire.fields import (
    MAX_CHOICES,
    CommonRequest,
    EngineSpillwayOptions,
    Only,
    Prediction,
    TokenId,
)

MAX_LOGPROBS = 5
DEFAULT_MAX_TOKENS = 16

Tokens = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Prompts = (
    str
    | Tokens
    | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
    | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
)


class CompletionRequest(CommonRequest):
    """Text, or tokens, to continue. Without `max_tokens` OpenAI's default of 16 holds.

    `echo` puts the prompt before the answer, with its log-probs where log-probs are asked for.
    """

    prompt: Prompts
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    prediction: Prediction | None = None
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    echo: bool | None = None
    best_of: Annotated[Any, Only((1,))] = None
    suffix: Annotated[Any, Only(("",))] = None

    def prompts(self) -> list[str] | list[list[int]]:
        """Every prompt of the request, whichever of the four forms it came in."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [prompt]
        return prompt


class EngineCompletionRequest(CompletionRequest):
    """The same as a gateway sends it to its engine."""

    spillway: EngineSpillwayOptions | None = None
