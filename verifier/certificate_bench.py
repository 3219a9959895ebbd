"""One model in one number format, and the engines on which a certificate runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from verifier.certificate_cases import MIXES, Cell, Variant, matrix, prompts_of, sample_of, variants
from verifier.certificate_margins import margin_stats
from verifier.certificate_results import CellResult, CertificateOptions, MatrixResult
from verifier.certificate_runs import Written, compare, run_cell, run_plain
from verifier.certificate_sources import adversaries
from verifier.draft_sources import MAKERS
from verifier.engine import Engine, EngineConfig
from verifier.errors import ModelRefused
from verifier.loading import Dtype, LoadedModel
from verifier.margin import NARROW

SHAPES: Final = (1, 5, 32)
"""Draft nodes of one request and step."""
_PAGE: Final = 8  # tokens
_TIGHT_PAGE: Final = 4
_TIGHT_RUNNING: Final = 6  # requests, over pages for two of the longest
_TIGHT_STEP: Final = 24  # prompt tokens in one forward

Progress = Callable[[str], None]


class Bench:
    """Runs every cell on one target, with or without a model that drafts for it."""

    def __init__(
        self,
        target: LoadedModel,
        draft: LoadedModel | None,
        dtype: Dtype,
        options: CertificateOptions,
    ) -> None:
        """Raise ``ModelRefused`` if the outputs asked for do not fit the target's context."""
        self.target = target
        self.bound = NARROW[dtype].bound
        self.prompts = prompts_of(target, options.prompts, longest=_room(target, options.tokens))
        self._dtype = dtype
        self._models = {one.name: one for one in (target, draft) if one is not None}
        self._options = options
        self._variants = variants(
            self.prompts,
            requests=options.requests,
            tokens=options.tokens,
            vocabulary=target.vocab_size,
        )
        self._longest = max(len(prompt) for prompt in self.prompts) + options.tokens

    def greedy(self, variants: Sequence[Variant]) -> list[Written]:
        """What the plain loop makes of ``variants``."""
        return run_plain(self._plain(), self.target.name, variants)

    @cached_property
    def plain(self) -> list[Written]:
        """What the plain loop makes of every variant."""
        return self.greedy(self._variants)

    @cached_property
    def engines(self) -> Mapping[str, Engine]:
        """One with room for everybody, and one with few pages and small steps."""
        return {"roomy": self._roomy(), "tight": self._tight()}

    @property
    def sources(self) -> list[str]:
        """Names of all that draft."""
        return sorted(self.engines["roomy"].sources(self.target.name))

    def run(self, progress: Progress) -> MatrixResult:
        """The plain loop, then every cell."""
        progress(f"{self._dtype}: the plain loop")
        plain = self.plain
        choose = matrix if self._options.thorough else sample_of
        cells = []
        for cell in choose(self.sources, SHAPES, MIXES):
            progress(f"{self._dtype}: {cell.name}")
            cells.append(self.cell(cell))
        engines = self.engines
        stats = [engine.stats().models[self.target.name] for engine in engines.values()]
        return MatrixResult(
            dtype=self._dtype,
            fingerprint=self.target.fingerprint,
            plain_tokens=sum(len(one.tokens) for one in plain),
            margins=margin_stats((m for one in plain for m in one.margins), bound=self.bound),
            cells=tuple(cells),
            leaks=tuple(leak for name, one in engines.items() for leak in leaks(name, one)),
            preemptions=sum(one.preemptions for one in stats),
            prefix_hit_tokens=sum(one.prefix_hit_tokens for one in stats),
        )

    def cell(self, cell: Cell) -> CellResult:
        """Every variant under ``cell``, held against the plain loop's."""
        engine = self.engines["tight" if cell.mix == "tight" else "roomy"]
        found = run_cell(engine, self.target.name, cell, self._variants, self.plain)
        compared = [
            compare(before, after, case=cell.name, variant=variant.name, bound=self.bound)
            for before, after, variant in zip(self.plain, found, self._variants, strict=True)
        ]
        differences = [one.difference for one in compared]
        return CellResult(
            cell=cell,
            requests=len(found),
            differences=tuple(one for one in differences if one is not None),
            deviation=max(one.deviation for one in compared),
            steps=sum(one.receipt.steps for one in found),
            tokens=sum(len(one.tokens) for one in found),
            drafted=sum(one.receipt.drafted for one in found),
            accepted=sum(one.receipt.accepted for one in found),
        )

    def _plain(self) -> Engine:
        config = EngineConfig(
            speculation=False,
            max_running=1,
            page_size=_PAGE,
            pages=2 * _pages(self._longest, _PAGE),
        )
        return Engine({self.target.name: self.target}, config)

    def _roomy(self) -> Engine:
        requests = self._options.requests
        return self._drafting(
            page_size=_PAGE, pages=requests * _pages(self._longest, _PAGE), max_running=requests
        )

    def _tight(self) -> Engine:
        return self._drafting(
            page_size=_TIGHT_PAGE,
            pages=2 * _pages(self._longest, _TIGHT_PAGE),
            max_running=_TIGHT_RUNNING,
            step_tokens=_TIGHT_STEP,
        )

    def _drafting(self, **limits: Any) -> Engine:
        name = self.target.name
        drafts = [other for other in self._models if other != name]
        config = EngineConfig(
            draft_models={name: drafts[0]} if drafts else {},
            sources=tuple(MAKERS),
            exit_layers=_exit_layers(self.target),
            max_waiting=self._options.requests,
            max_nodes=max(SHAPES),
        )
        sources = adversaries(self.target.vocab_size)
        return Engine(self._models, replace(config, **limits), extra_sources=sources)


def leaks(name: str, engine: Engine) -> list[str]:
    """What an idle ``engine`` still holds."""
    found = []
    for model, stats in engine.stats().models.items():
        for what in ("running", "waiting", "pages_used"):
            if getattr(stats, what):
                found.append(f"{name} engine, {model}: {what} is {getattr(stats, what)}")
    return found


def _exit_layers(target: LoadedModel) -> dict[str, int]:
    """A third of its layers, where it can end early at all."""
    layers = int(getattr(target.config, "num_hidden_layers", 1))
    return {target.name: max(layers // 3, 1)} if target.path == "lean" and layers > 1 else {}


def _pages(tokens: int, page_size: int) -> int:
    return -(-tokens // page_size) + 1


def _room(target: LoadedModel, tokens: int) -> int:
    """Longest prompt that leaves room for ``tokens``; half the context at most."""
    room = min(target.max_model_len - tokens, max(target.max_model_len // 2, 1))
    if room < 1:
        raise ModelRefused(
            f"got {tokens} tokens an output; expected fewer than the context of "
            f"{target.max_model_len}"
        )
    return room
