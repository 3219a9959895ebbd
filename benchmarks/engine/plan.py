"""What every row is given: models, threads, and how long it may measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.engine.worker import Build, LocalWorker, Worker, process_worker
from benchmarks.paired import Rounds

Choice = TypeVar("Choice")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``quick``: toy sizes in this process, to see that everything runs; figures mean nothing."""

    river: Path
    brook: Path
    creek: Path
    router: Path
    big: Path  # random weights, about 82M parameters unless quick
    threads: int
    quick: bool = False
    patience: float = 1.0  # every time budget is multiplied by it

    @contextmanager
    def worker(self, build: Build, *arguments: Any) -> Iterator[Worker]:
        """Where ``build(*arguments)`` is measured."""
        if self.quick:
            yield LocalWorker(self.threads, build, *arguments)
            return
        with process_worker(self.threads, build, *arguments) as worker:
            yield worker

    def rounds(self, budget_s: float, *, least: int = 5, most: int = 40) -> Rounds:
        """Repeats for ``budget_s`` seconds."""
        if self.quick:
            return Rounds(2, 2, 0.0)
        least = max(2, round(least * min(self.patience, 1.0)))
        return Rounds(least, most, budget_s * self.patience)

    def some(self, choices: Sequence[Choice]) -> Sequence[Choice]:
        """All of them, or the first."""
        return choices[:1] if self.quick else choices

    def size(self, full: int, quick: int) -> int:
        """A count of prompts or tokens."""
        return quick if self.quick else full
