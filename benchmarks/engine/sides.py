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

    def pairs(self, units: Sequence[Unit], rounds: Rounds, *, warm: Sequence[Unit] = ()) -> Pairs:
        """Interleave all sides over ``units``, after each has done ``warm`` unmeasured."""
        runs = {name: self._run(name) for name in self._sides}
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

    def peaks(self) -> dict[str, float]:
        """Most memory resident while each side ran, MiB."""
        found = {name: worker.peaks[method] for name, (worker, method) in self._sides.items()}
        return mebibytes(found)

    def _run(self, name: str) -> Callable[[Unit], Run]:
        worker, method = self._sides[name]

        def run(unit: Unit) -> Run:
            said: Said = worker.call(method, unit)
            self._said[name][unit] = said.answers
            return Run(said.seconds, said.tokens)

        return run
