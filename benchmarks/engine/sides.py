"""Methods of workers as the sides of pairs, and whether they wrote the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.engine.prompts import Prompt
from benchmarks.engine.record import mebibytes
from benchmarks.engine.worker import Worker
from benchmarks.paired import Pairs, Rounds, Run, interleave

Unit = tuple[Prompt, ...]  # what one run answers


class Said(NamedTuple):
    """What one run wrote, and how long that took."""

    seconds: float
    answers: tuple[tuple[int, ...], ...]
    steps: int = 0  # verifications of all answers, where that is told

    @property
    def tokens(self) -> int:
        """Of all answers together, their ends included."""
        return sum(len(answer) for answer in self.answers)


class Sides:
    """Sides by name: a worker, and what to call it for."""

    def __init__(self, sides: Mapping[str, tuple[Worker, str]]) -> None:
        self._sides = sides
        self._said: dict[str, dict[Unit, tuple[tuple[int, ...], ...]]] = {
            name: {} for name in sides
        }
        self._written: dict[str, tuple[int, int]] = {}

    def pairs(self, units: Sequence[Unit], rounds: Rounds, *, warm: Sequence[Unit] = ()) -> Pairs:
        """Interleave all sides over ``units``, after each has done ``warm`` unmeasured."""
        runs = {name: self._run(name) for name in self._sides}
        for worker, _ in self._sides.values():
            worker.peaks.clear()
        for unit in warm:
            for run in runs.values():
                run(unit)
        return interleave(runs, units, rounds)

    def length(self, name: str, unit: Unit) -> int:
        """Tokens that one side writes."""
        return self._run(name)(unit).tokens

    def equal(self, one: str, other: str) -> float:
        """Share of answers that two sides wrote alike."""
        alike = [
            ours == theirs
            for unit, answers in self._said[one].items()
            for ours, theirs in zip(answers, self._said[other][unit], strict=True)
        ]
        return sum(alike) / len(alike)

    def tokens_a_step(self, name: str) -> float:
        """Of all that one side wrote."""
        tokens, steps = self._written[name]
        return tokens / steps

    def peaks(self, of: str = "{}") -> dict[str, float]:
        """Most memory resident while each side ran its latest ``pairs``, MiB; ``of`` names it."""
        return mebibytes(
            {of.format(name): worker.peaks[how] for name, (worker, how) in self._sides.items()}
        )

    def _run(self, name: str) -> Callable[[Unit], Run]:
        worker, method = self._sides[name]

        def run(unit: Unit) -> Run:
            said: Said = worker.call(method, unit)
            self._said[name][unit] = said.answers
            tokens, steps = self._written.get(name, (0, 0))
            self._written[name] = tokens + said.tokens, steps + said.steps
            return Run(said.seconds, said.tokens)

        return run
