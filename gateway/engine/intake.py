"""A validated wire request as the engine's own requests: tokens, sampling, stops, references."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from drafting.source import Reference
from gateway.engine.tokens import Served
from gateway.errors import ApiError
from gateway.wire.chat import ChatRequest
from gateway.wire.completion import DEFAULT_MAX_TOKENS, CompletionRequest
from gateway.wire.fields import CommonRequest, EngineSpillwayOptions, Text
from verifier.errors import ContextOverflow, QueueFull, RequestRefused
from verifier.request import GenerationRequest, SamplingParams, Speculation, StopRules

_RETRY_AFTER_S = 1
_ALL_BITS = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Batch:
    """All generations of one HTTP request: prompt by prompt, and ``n`` choices of each."""

    requests: tuple[GenerationRequest, ...]
    choices: int  # of each prompt
    echoes: tuple[str, ...] = ()  # text to put before each choice

    def index_of(self, request_id: str, choice: int) -> int:
        """Where a choice stands in the response."""
        return int(request_id.rpartition("#")[2]) * self.choices + choice


def chat_batch(wanted: ChatRequest, served: Served, name: str) -> Batch:
    """Requests for a conversation. ``name`` is unique to the HTTP request.

    Raises:
        ApiError: the conversation cannot be rendered, or a field cannot be honoured.
    """
    messages = [
        {"role": _role(one.role), "content": plain_text(one.content)} for one in wanted.messages
    ]
    try:
        prompt = served.chat(messages)
    except RequestRefused as error:
        raise refused(error, wanted) from None
    longest = wanted.max_completion_tokens or wanted.max_tokens
    longest = longest or max(1, served.model.max_model_len - len(prompt))
    top = (wanted.top_logprobs or 0) if wanted.logprobs else None
    return _batch(wanted, served, name, [prompt], longest, top)


def completion_batch(wanted: CompletionRequest, served: Served, name: str) -> Batch:
    """Requests for each prompt of a text completion. Arguments and errors as ``chat_batch``."""
    given = wanted.prompts()
    prompts = [
        served.plain(one) if isinstance(one, str) else _checked(tuple(one), served) for one in given
    ]
    longest = DEFAULT_MAX_TOKENS if wanted.max_tokens is None else wanted.max_tokens
    batch = _batch(wanted, served, name, prompts, longest, wanted.logprobs)
    if not wanted.echo:
        return batch
    if wanted.logprobs is not None or longest == 0:
        scored = [replace(one, prompt_logprobs=wanted.logprobs or 0) for one in batch.requests]
        batch = replace(batch, requests=tuple(scored))
    texts = [one if isinstance(one, str) else served.model.decode(one) for one in given]
    return replace(batch, echoes=tuple(text for text in texts for _ in range(batch.choices)))


def refused(error: Exception, wanted: CommonRequest) -> ApiError:
    """What the engine would not take of ``wanted``, as a client sees it."""
    prompt_param = "messages" if isinstance(wanted, ChatRequest) else "prompt"
    if isinstance(error, ContextOverflow):
        field = _limit_param(wanted) if error.param == "max_tokens" else prompt_param
        return ApiError(400, str(error), param=field, code="context_length_exceeded")
    if isinstance(error, QueueFull):
        return ApiError(
            429,
            "The engine has as many requests waiting as it may. Please retry shortly.",
            type="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"retry-after": str(_RETRY_AFTER_S)},
        )
    param = error.param if isinstance(error, RequestRefused) else None
    return ApiError(400, str(error), param=param or prompt_param)


def _limit_param(wanted: CommonRequest) -> str:
    """The word in which the client gave, or could give, the length of the answer."""
    sent = isinstance(wanted, ChatRequest) and wanted.max_completion_tokens is not None
    return "max_completion_tokens" if sent else "max_tokens"


def plain_text(content: Text) -> str:
    """The text of a message or prediction, be it a string or parts."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _batch(
    wanted: CommonRequest,
    served: Served,
    name: str,
    prompts: Sequence[tuple[int, ...]],
    longest: int,
    top_logprobs: int | None,
) -> Batch:
    choices = wanted.n or 1
    shared: dict[str, Any] = {
        "model": served.name,
        "sampling": _sampling(wanted),
        "stops": _stops(wanted, longest),
        "references": _references(wanted, served),
        "speculation": _speculation(wanted),
        "top_logprobs": top_logprobs,
        "cache_salt": wanted.cache_salt or "",
        "predicted_tokens": getattr(wanted.spillway, "predicted_tokens", None),
    }
    requests = tuple(
        GenerationRequest(request_id=f"{name}#{at}", prompt=prompt, choice=choice, **shared)
        for at, prompt in enumerate(prompts)
        for choice in range(choices)
    )
    return Batch(requests, choices)


def _sampling(wanted: CommonRequest) -> SamplingParams:
    given = {
        "temperature": wanted.temperature,
        "top_p": wanted.top_p,
        "min_p": wanted.min_p,
        "presence_penalty": wanted.presence_penalty,
        "frequency_penalty": wanted.frequency_penalty,
        "repetition_penalty": wanted.repetition_penalty,
    }
    known: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    bias = {int(token): value for token, value in (wanted.logit_bias or {}).items()}
    seed = secrets.randbits(64) if wanted.seed is None else wanted.seed & _ALL_BITS
    return SamplingParams(**known, top_k=max(0, wanted.top_k or 0), logit_bias=bias, seed=seed)


def _stops(wanted: CommonRequest, longest: int) -> StopRules:
    stop = (wanted.stop,) if isinstance(wanted.stop, str) else tuple(wanted.stop or ())
    least = wanted.min_tokens or 0
    if least > longest:
        raise ApiError(
            400,
            f"'min_tokens' is {least}; expected at most the {longest} tokens of the answer.",
            param="min_tokens",
        )
    return StopRules(
        max_tokens=longest,
        min_tokens=least,
        stop=stop,
        stop_token_ids=frozenset(wanted.stop_token_ids or ()),
        ignore_eos=bool(wanted.ignore_eos),
    )


def _references(wanted: CommonRequest, served: Served) -> tuple[Reference, ...]:
    """The client's prediction must fit; what the gateway adds is cut, since it may never hurt."""
    longest = served.model.max_model_len
    found = []
    prediction = getattr(wanted, "prediction", None)
    if prediction is not None:
        tokens = served.continuation(plain_text(prediction.content))
        if len(tokens) > longest:
            raise ApiError(
                400,
                f"'prediction' has {len(tokens)} tokens; expected at most the model's {longest}.",
                param="prediction",
            )
        found.append(Reference("prediction", tokens))
    options = wanted.spillway
    drafts = options.drafts if isinstance(options, EngineSpillwayOptions) else None
    for draft in drafts or ():
        found.append(Reference(draft.kind, served.continuation(draft.text)[:longest]))
    return tuple(found)


def _speculation(wanted: CommonRequest) -> Speculation:
    options = wanted.spillway.speculation if wanted.spillway else None
    if options is None:
        return Speculation()
    sources = None if options.sources is None else frozenset(options.sources)
    return Speculation(mode=options.mode or "auto", sources=sources, max_nodes=options.max_nodes)


def _checked(tokens: tuple[int, ...], served: Served) -> tuple[int, ...]:
    largest = max(tokens)
    if largest >= served.model.vocab_size:
        raise ApiError(
            400,
            f"'prompt' holds token {largest}; expected ids below {served.model.vocab_size}.",
            param="prompt",
        )
    return tokens


def _role(role: str) -> str:
    """Templates know `system`; `developer` is OpenAI's newer word for it."""
    return "system" if role == "developer" else role
