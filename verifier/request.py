"""What a request asks of the engine, and what it gets back at every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from drafting.source import Reference

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Everything that shapes the distribution a token is drawn from (OpenAI's and vLLM's names)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0  # 64 bits; the caller draws one when the client gave none


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
    """When a choice ends. Stop strings are excluded from the text and may straddle tokens."""

    max_tokens: int
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Per-request control; ``sources`` None means every source configured for the model."""

    mode: Literal["off", "auto", "fixed"] = "auto"
    sources: frozenset[str] | None = None
    max_nodes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt, one choice. ``n`` choices are ``n`` requests that differ in ``choice``."""

    request_id: str
    model: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    stops: StopRules
    choice: int = 0
    references: tuple[Reference, ...] = ()
    speculation: Speculation = Speculation()
    top_logprobs: int | None = None  # None: no log-probs; 0: of the emitted token only
    prompt_logprobs: int | None = None  # the same of prompt tokens; max_tokens may then be 0
    cache_salt: str = ""
    predicted_tokens: int | None = None  # likely length of the output, for the order "shortest"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-prob of one emitted token and of its likeliest rivals, from the target's raw logits."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob), likeliest first


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCount:
    """Draft tokens one source proposed and how many of them the target accepted."""

    proposed: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeReceipt:
    """What decoding one choice cost. All drafting is counted here, whoever proposed it."""

    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    steps: int  # target forwards that produced output, one verification each
    drafted: int
    accepted: int
    by_source: Mapping[str, SourceCount]
    accepted_prediction_tokens: int  # of the client's own prediction only
    rejected_prediction_tokens: int
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    draft_ms: float
    narrow_margins: int  # decisions whose margin was below the stated bound
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """What one verification step gave one choice. Text is complete code points, never a split one.

    ``text`` may lag behind ``tokens`` while a stop string could still complete. The last output of
    a choice carries ``receipt``, and ``finish_reason`` or, if it could not be finished, ``error``.
    Its first one carries ``prompt_logprobs``, of every prompt token but the first, where asked for.
    """

    request_id: str
    choice: int
    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    margins: tuple[float, ...] = ()  # decision margin of each of ``tokens``
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    receipt: DecodeReceipt | None = None
    error: str | None = None
