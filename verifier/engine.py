"""The engine: decodes many requests over several models, one step at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from verifier.loading import LoadedModel
from verifier.request import GenerationRequest, SourceCount, StepOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What an operator may set. Pages and budgets are per model."""

    page_size: int = 16  # tokens
    pages: int = 4096  # committed keys and values a model may keep
    max_running: int = 32
    max_waiting: int = 256  # beyond it: QueueFull
    step_tokens: int = 256  # prefill tokens and draft nodes of one forward together
    max_nodes: int = 32  # draft nodes of one request and step
    speculation: bool = True
    sources: tuple[str, ...] = ("lookup", "model")  # by name, for every model
    draft_models: Mapping[str, str] = field(default_factory=dict)  # target name: draft name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStats:
    """Counters of one model since start, and gauges of this moment (running to pages_total)."""

    running: int = 0
    waiting: int = 0
    batch_size: int = 0  # requests in the latest step
    pages_used: int = 0
    pages_total: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    drafts: int = 0  # verifications that carried a draft
    drafted: int = 0
    accepted: int = 0
    accepted_by_position: tuple[int, ...] = ()
    by_source: Mapping[str, SourceCount] = field(default_factory=dict)
    narrow_margins: int = 0
    step_seconds: float = 0.0
    forward_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """One ``ModelStats`` for each model, by name."""

    models: Mapping[str, ModelStats]


class Engine:
    """Several models in one process. One thread calls ``step``; the rest is thread-safe."""

    def __init__(self, models: Mapping[str, LoadedModel], config: EngineConfig | None = None):
        raise NotImplementedError

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request.

        Raises:
            ContextOverflow: prompt and max_tokens exceed the context; both numbers are given.
            RequestRefused: a field that cannot be honoured; ``param`` names it.
            QueueFull: too many requests are waiting.
        """
        raise NotImplementedError

    def cancel(self, request_id: str) -> None:
        """End every choice of ``request_id`` within one step. Unknown ids are ignored."""
        raise NotImplementedError

    def step(self) -> list[StepOutput]:
        """One iteration over every model with work; [] when idle."""
        raise NotImplementedError

    def has_work(self) -> bool:
        """Whether ``step`` has anything to do."""
        raise NotImplementedError

    def stats(self) -> EngineStats:
        """Counters for metrics; safe from any thread."""
        raise NotImplementedError
