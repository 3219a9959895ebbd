"""Our engine, driven directly: what it is asked, how long it took, what it wrote."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.engine.prompts import Prompt
from benchmarks.engine.sides import Said
from benchmarks.engine.worker import Methods
from verifier.engine import Engine, EngineConfig
from verifier.loading import Dtype, LoadedModel, load_model
from verifier.request import (
    DecodeReceipt,
    GenerationRequest,
    SamplingParams,
    Speculation,
    StepOutput,
    StopRules,
)

TARGET, DRAFT = "target", "draft"
GREEDY = SamplingParams(temperature=0.0)
OFF = Speculation(mode="off")
AUTO = Speculation(mode="auto")


@dataclass(slots=True)
class Watched:
    """One answer as it was written; times are seconds since the beginning of the drive."""

    due: float
    said: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # of every token
    receipt: DecodeReceipt | None = None

    @property
    def ended(self) -> float:
        """Time of the last token."""
        return self.times[-1]


@dataclass(frozen=True, slots=True)
class Drive:
    """What came of driving the engine over some prompts."""

    seconds: float
    answers: tuple[Watched, ...]
    tokens: int  # written within ``seconds``
    steps: int
    step_seconds: float  # in ``Engine.step``
    forward_seconds: float


class Own:
    """An engine for one target, and the model that drafts for it if there is one."""

    def __init__(
        self, target: Path, *, draft: Path | None = None, dtype: Dtype = "float32", **config: Any
    ) -> None:
        """``config``: fields of ``EngineConfig``."""
        self.models: dict[str, LoadedModel] = {TARGET: load_model(target, dtype=dtype, name=TARGET)}
        if draft is not None:
            self.models[DRAFT] = load_model(draft, dtype=dtype, name=DRAFT)
            config["draft_models"] = {TARGET: DRAFT}
        self.engine = Engine(self.models, EngineConfig(**config))
        self._ids = itertools.count()

    def drive(
        self,
        prompts: Sequence[Prompt],
        *,
        speculation: Speculation = AUTO,
        at_once: int | None = None,
        due: Sequence[float] | None = None,
        until: Literal["done", "thin"] = "done",
    ) -> Drive:
        """Answer ``prompts``: ``at_once`` of them (None: all), or each when it is ``due``.

        Time in which nobody is there is skipped: the clock goes on with the next arrival.
        ``until`` "thin": stop as soon as fewer than ``at_once`` run and none waits, so that the
        load is the same all the time.
        """
        first = next(self._ids)
        watched = [Watched(0.0 if due is None else due[place]) for place in range(len(prompts))]
        names = {f"{first}/{place}": place for place in range(len(prompts))}
        waiting = list(reversed(names))
        limit = len(prompts) if at_once is None else at_once
        forward, stepping = self._forward_seconds(), 0.0
        running = steps = 0
        began = time.perf_counter()  # moved back by what is skipped
        while waiting or running:
            now = time.perf_counter() - began
            while waiting and running < limit and watched[names[waiting[-1]]].due <= now:
                name = waiting.pop()
                self.engine.submit(self._request(name, prompts[names[name]], speculation))
                running += 1
            if until == "thin" and running < limit:
                break
            if not running:
                began -= watched[names[waiting[-1]]].due - now
                continue
            stepped = time.perf_counter()
            outputs = self.engine.step()
            done = time.perf_counter()
            stepping += done - stepped
            steps += 1
            running -= _note(outputs, watched, names, done - began)
        seconds = time.perf_counter() - began
        if until == "thin":
            self._abandon(names)
        tokens = sum(len(answer.said) for answer in watched)
        forward = self._forward_seconds() - forward
        return Drive(seconds, tuple(watched), tokens, steps, stepping, forward)

    def _forward_seconds(self) -> float:
        return self.engine.stats().models[TARGET].forward_seconds

    def said(
        self,
        prompts: Sequence[Prompt],
        speculation: Speculation,
        *,
        at_once: int | None = None,
    ) -> Said:
        """Drive until all are answered."""
        drive = self.drive(prompts, speculation=speculation, at_once=at_once)
        steps = sum(answer.receipt.steps for answer in drive.answers if answer.receipt)
        return Said(drive.seconds, tuple(tuple(answer.said) for answer in drive.answers), steps)

    def _abandon(self, names: Iterable[str]) -> None:
        """End what still runs."""
        for name in names:
            self.engine.cancel(name)
        while self.engine.has_work():
            self.engine.step()

    def _request(self, name: str, prompt: Prompt, speculation: Speculation) -> GenerationRequest:
        return GenerationRequest(
            request_id=name,
            model=TARGET,
            prompt=prompt.tokens,
            sampling=GREEDY,
            stops=StopRules(max_tokens=prompt.longest, ignore_eos=prompt.ignore_eos),
            references=prompt.references if speculation.mode != "off" else (),
            speculation=speculation,
            predicted_tokens=prompt.predicted,
            cache_salt=name if prompt.salt is None else prompt.salt,
        )


def _note(
    outputs: Sequence[StepOutput], watched: Sequence[Watched], names: dict[str, int], now: float
) -> int:
    """Book one step; returns how many answers ended."""
    ended = 0
    for output in outputs:
        answer = watched[names[output.request_id]]
        answer.said += output.tokens
        answer.times += [now] * len(output.tokens)
        if output.receipt is not None:
            assert output.error is None, output.error
            answer.receipt = output.receipt
            ended += 1
    return ended


def methods(
    target: Path, draft: Path | None = None, dtype: Dtype = "float32", **config: Any
) -> Methods:
    """What a worker can be called for: everything in turn, or all at once."""
    own = Own(target, draft=draft, dtype=dtype, **config)
    return {
        "plain": lambda prompts: own.said(prompts, OFF, at_once=1),
        "auto": lambda prompts: own.said(prompts, AUTO, at_once=1),
        "plain batch": lambda prompts: own.said(prompts, OFF),
        "auto batch": lambda prompts: own.said(prompts, AUTO),
    }
