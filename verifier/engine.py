"""The engine: decodes many requests over several models, one step at a time."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from drafting.source import DraftSource
from verifier.block_courier import BlockCourier, BlockPolicy
from verifier.blocks import BlockStore
from verifier.calibration import MachineCosts
from verifier.choice import Choice
from verifier.errors import EngineBroken, QueueFull, RequestRefused
from verifier.intake import Intake
from verifier.loading import LoadedModel
from verifier.request import GenerationRequest, SourceCount, StepOutput
from verifier.scheduler import AGEING, Order
from verifier.setup import Blocks, build_decoder

logger = logging.getLogger(__name__)

DEFAULT_SOURCES = (
    "prompt_lookup", "prediction", "rejected_answer", "near_hit", "recent_answer", "draft_model",
    "early_exit",
)  # fmt: skip
MOST_FAILURES = 5
"""Steps of one model that may fail in a row; then nothing but a new process will mend it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What an operator may set. Pages and budgets are per model."""

    page_size: int = 16  # tokens
    cache_bytes: int = 256 * 2**20  # of pages, where ``pages`` is None
    pages: int | None = None  # committed keys and values a model may keep
    max_running: int = 32
    max_waiting: int = 256  # beyond it: QueueFull
    step_tokens: int | None = 256  # tokens of prompts in one forward; None: whole prompts at once
    order: Order = "first_come"
    ageing: float = AGEING  # see the scheduler
    block_policy: BlockPolicy = field(default_factory=BlockPolicy)  # how a block store is used
    block_secret: bytes = field(default=b"", repr=False)  # of the MACs of its values
    max_nodes: int = 32  # draft nodes of one request and step
    speculation: bool = True
    sources: tuple[str, ...] = DEFAULT_SOURCES  # by name, for every model
    draft_models: Mapping[str, str] = field(default_factory=dict)  # target name: draft name
    exit_layers: Mapping[str, int] = field(default_factory=dict)  # for early exit, by model name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStats:
    """Counters of one model since start, and gauges of this moment (running to pages_total)."""

    path: str = "lean"  # how the network is computed
    dtype: str = "float32"
    running: int = 0
    waiting: int = 0
    batch_size: int = 0  # requests in the latest step
    pages_used: int = 0
    pages_total: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    prefix_hit_tokens: int = 0
    block_hit_tokens: int = 0  # of them from the block store
    blocks: Mapping[str, int] = field(default_factory=dict)  # pages by what became of them
    blocks_off: bool = False  # the block store, as one of its pages was wrong
    block_fetch_s: float = 0.0  # to fetch one page more; 0 as long as it is not known
    block_compute_s: float = 0.0  # to compute one page
    preemptions: int = 0
    drafts: int = 0  # verifications that carried a draft
    drafted: int = 0
    accepted: int = 0
    accepted_by_position: tuple[int, ...] = ()
    by_source: Mapping[str, SourceCount] = field(default_factory=dict)
    draft_failures: Mapping[str, int] = field(default_factory=dict)  # by source, or what was asked
    narrow_margins: int = 0
    step_seconds: float = 0.0
    forward_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """One ``ModelStats`` for each model, by name."""

    models: Mapping[str, ModelStats]


class Engine:
    """Several models in one process. One thread calls ``step``; the rest is thread-safe."""

    def __init__(
        self,
        models: Mapping[str, LoadedModel],
        config: EngineConfig | None = None,
        *,
        extra_sources: Sequence[DraftSource] = (),
        blocks: BlockStore | None = None,
    ) -> None:
        """Reserve memory and measure this machine; takes up to a second for each model.

        ``extra_sources``: draft sources of the caller's own, for every model, besides those that
        ``config`` names. Full pages go to ``blocks`` and come back from it, whoever saved them;
        ``close`` lets go of it.

        Raises:
            ModelRefused: a draft model is unknown or speaks another vocabulary.
        """
        self.config = config or EngineConfig()
        costs = MachineCosts(models)
        self._news = threading.Event()  # something came for an engine that waits
        self._blocks = blocks
        kept = None
        if blocks is not None:
            kept = Blocks(blocks, self._news.set)
        self._decoders = {
            name: build_decoder(name, models, self.config, costs, extra_sources, kept)
            for name in models
        }
        self._intakes = {
            name: Intake(model, self._decoders[name]) for name, model in models.items()
        }
        self._lock = threading.Lock()  # guards the four below
        self._arrivals = itertools.count()
        self._submitted: deque[Choice] = deque()
        self._cancelled: deque[str] = deque()
        self._alive: dict[tuple[str, int], str] = {}  # choice: its model
        self._failures: Counter[str] = Counter()  # steps in a row, by model

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request.

        Raises:
            ContextOverflow: prompt and max_tokens exceed the context; both numbers are given.
            RequestRefused: a field that cannot be honoured; ``param`` names it.
            QueueFull: too many requests are waiting.
        """
        intake = self._intakes.get(request.model)
        if intake is None:
            raise RequestRefused(
                f"got model {request.model!r}; expected one of {sorted(self._intakes)}",
                param="model",
            )
        intake.check(request)
        key = (request.request_id, request.choice)
        with self._lock:
            if key in self._alive:
                raise RequestRefused(f"request {key} is running already", param="request_id")
            self._check_queue(request.model)
            choice = intake.open(request, next(self._arrivals))
            self._submitted.append(choice)
            self._alive[key] = request.model
        self._news.set()

    def cancel(self, request_id: str) -> None:
        """End every choice of ``request_id`` within one step. Unknown ids are ignored."""
        with self._lock:
            self._cancelled.append(request_id)
        self._news.set()

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """One iteration over every model with work; [] when idle.

        Raises:
            EngineBroken: a model failed at ``MOST_FAILURES`` steps in a row.
        """
        self._news.clear()
        outputs = self._take_in()
        for name in self._decoders:
            outputs += self._step(name)
        if not outputs:
            self._wait_for_pages()
        ended = [output for output in outputs if output.receipt is not None]
        with self._lock:
            for output in ended:
                self._alive.pop((output.request_id, output.choice), None)
        return outputs

    def has_work(self) -> bool:
        """Whether ``step`` has anything to do."""
        return bool(self._alive or self._cancelled)

    def sources(self, model: str) -> frozenset[str]:
        """Names of the draft sources ``model`` has; none without speculation."""
        drafting = self._decoders[model].drafting
        return frozenset() if drafting is None else drafting.names

    def stats(self) -> EngineStats:
        """Counters for metrics; safe from any thread."""
        return EngineStats(models={name: self._stats(name) for name in self._decoders})

    def close(self) -> None:
        """Save what waits to be saved, for a moment, and let go of the block store."""
        couriers = [decoder.scheduler.courier for decoder in self._decoders.values()]
        for courier in couriers:
            if courier is not None:
                courier.close()
        if self._blocks is not None:
            self._blocks.close()

    def _wait_for_pages(self) -> None:
        """With nothing to run but requests whose pages are on their way, sleep until some come."""
        schedulers = [decoder.scheduler for decoder in self._decoders.values()]
        if any(one.waiting for one in schedulers) and not any(one.running for one in schedulers):
            self._news.wait(min(one.next_arrival_s() for one in schedulers if one.waiting))

    def _step(self, name: str) -> list[StepOutput]:
        decoder = self._decoders[name]
        before = decoder.counts.steps
        try:
            outputs = decoder.step()
        except Exception as error:  # one model's fault must not end the other's requests
            logger.exception("a step of model %s failed", name)
            self._failures[name] += 1
            if self._failures[name] >= MOST_FAILURES:
                raise EngineBroken(
                    f"{MOST_FAILURES} steps of model {name!r} failed in a row"
                ) from error
            return decoder.abandon(f"internal error: {type(error).__name__}")
        if decoder.counts.steps > before:  # an idle step says nothing
            del self._failures[name]
        return outputs

    def _check_queue(self, model: str) -> None:
        alive = sum(1 for name in self._alive.values() if name == model)
        waiting = alive - len(self._decoders[model].scheduler.running)
        if waiting >= self.config.max_waiting:
            raise QueueFull(f"{waiting} requests are waiting for {model!r}, the most allowed")

    def _take_in(self) -> list[StepOutput]:
        """Queue what was submitted, then end what was cancelled."""
        with self._lock:
            submitted, self._submitted = self._submitted, deque()
            cancelled, self._cancelled = self._cancelled, deque()
        for choice in submitted:
            decoder = self._decoders[choice.request.model]
            decoder.counts.prompt_tokens += len(choice.request.prompt)
            decoder.scheduler.enqueue(choice)
        return [output for request_id in cancelled for output in self._end(request_id)]

    def _end(self, request_id: str) -> list[StepOutput]:
        outputs = []
        for decoder in self._decoders.values():
            for choice in decoder.scheduler.find(request_id):
                decoder.scheduler.finish(choice)
                outputs.append(
                    StepOutput(
                        request_id=request_id,
                        choice=choice.request.choice,
                        tokens=(),
                        text="",
                        finish_reason="cancelled",
                        receipt=choice.receipt(time.perf_counter()),
                    )
                )
        return outputs

    def _stats(self, name: str) -> ModelStats:
        decoder = self._decoders[name]
        counts, scheduler, pool = decoder.counts, decoder.scheduler, decoder.cache.pool
        proposed = dict(counts.proposed_by_source)
        return ModelStats(
            path=decoder.model.path,
            dtype=decoder.model.weight_format,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            batch_size=counts.batch_size if scheduler.running else 0,
            pages_used=pool.used,
            pages_total=pool.total,
            steps=counts.steps,
            prompt_tokens=counts.prompt_tokens,
            output_tokens=counts.output_tokens,
            prefix_hit_tokens=counts.prefix_hit_tokens,
            block_hit_tokens=counts.block_hit_tokens,
            **(_of_blocks(scheduler.courier) if scheduler.courier else {}),
            preemptions=counts.preemptions,
            drafts=counts.drafts,
            drafted=counts.drafted,
            accepted=counts.accepted,
            accepted_by_position=tuple(
                counts.by_position[place] for place in range(len(counts.by_position))
            ),
            by_source={
                source: SourceCount(proposed=count, accepted=counts.accepted_by_source[source])
                for source, count in proposed.items()
            },
            draft_failures=decoder.draft_failures,
            narrow_margins=counts.narrow_margins,
            step_seconds=counts.step_seconds,
            forward_seconds=counts.forward_seconds,
        )


def _of_blocks(courier: BlockCourier) -> dict[str, Any]:
    rates = courier.rates
    return {
        "blocks": dict(courier.counts),
        "blocks_off": courier.off,
        "block_fetch_s": rates.page_s or rates.first_s or 0.0,
        "block_compute_s": rates.compute_s(1) or 0.0,
    }
